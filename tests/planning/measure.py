"""What engines really hold: state of DDP and DeepSpeed on two gloo processes, and the tensors autograd saves."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from bcaudio.losses.code_cross_entropy import code_cross_entropy
from bcaudio.losses.token_cross_entropy import token_cross_entropy
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.training.freezing import freeze_all_but
from bcaudio.training.optim import AdamWCosine

MICRO = Path(__file__).resolve().parents[2] / "recipes" / "micro"
VARIANTS = ("stage1", "stage2", "lora")
WORLD_SIZE = 2
PERSISTENT = 20_000  # so that a tiny model has parameters on both sides of it
BUCKET = 5_000_000


def tiny_model(variant: str, device: str = "cpu") -> AudioLLM:
    """The audio LLM of the micro recipes, with what learns in stage 1, stage 2, or under LoRA of rank 8 on its attention."""
    recipe = load_recipe(MICRO / f"{'stage2' if variant == 'lora' else variant}.yaml", missing_ok=True)
    torch.manual_seed(0)
    with torch.device(device):
        model = build(recipe["model"])
        if variant == "lora":
            from peft import LoraConfig, inject_adapter_in_model

            model.requires_grad_(False)
            config = LoraConfig(r=8, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
            inject_adapter_in_model(config, model.llm)
            return model
    freeze_all_but(model, recipe["trainable"])
    return model


def measure_states(cases: list[tuple[str, int, bool]], folder: Path) -> dict[tuple[str, int, bool], dict[str, int]]:
    """Bytes after two backward passes, by case (variant, ZeRO stage, bf16) and kind, of the rank that holds most."""
    mp.start_processes(_run, (cases, str(folder)), nprocs=WORLD_SIZE, start_method="spawn")
    return torch.load(folder / "states.pt", weights_only=True)


def measure_activations(variant: str, num_rows: int, row_tokens: int, bf16: bool, checkpointing: bool) -> int:
    """Bytes that autograd saves in a forward pass with both losses, parameters left out; a storage counts once."""
    model = tiny_model(variant).train()
    if checkpointing:
        model.llm.activation_checkpointing_enable({"use_reentrant": False})
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = loss_of(model, small_batch(model, num_rows, row_tokens))  # noqa: F841 (keeps the graph alive)
        return sum(tensor.untyped_storage().nbytes() for tensor in saved.values())


def _run(rank: int, cases: list[tuple[str, int, bool]], folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD_SIZE)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "DS_ACCELERATOR": "cpu"}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORLD_SIZE)
    results = {case: _state(*case) for case in cases}
    ranks: list[Any] = [None] * WORLD_SIZE
    dist.all_gather_object(ranks, results)
    if rank == 0:
        most = {case: max((held[case] for held in ranks), key=lambda counts: sum(counts.values())) for case in cases}
        torch.save(most, Path(folder) / "states.pt")
    dist.destroy_process_group()


def _state(variant: str, stage: int, bf16: bool) -> dict[str, int]:
    """Weights, gradients and optimizer state of this rank, between the second backward pass and the step after it."""
    model = tiny_model(variant)
    optimizer = AdamWCosine(lr=1e-3, max_steps=10).build(model.parameters())["optimizer"]
    batch = small_batch(model, num_rows=1, row_tokens=64)
    if stage == 0:
        engine: Any = nn.parallel.DistributedDataParallel(_Loss(model))
        for step in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                engine(batch).backward()
            if step == 0:
                optimizer.step()
                optimizer.zero_grad()
        return _count(model.parameters(), (p.grad for p in model.parameters()), _tensors(optimizer.state))
    engine = _deepspeed(_Loss(model), optimizer, stage, bf16)
    for step in range(2):
        engine.backward(engine(batch))
        if step == 0:
            engine.step()
    zero = engine.optimizer
    pieces = (getattr(p, "ds_tensor", None) for p in model.parameters())
    weights = [*model.parameters(), *(piece for piece in pieces if piece is not None)]
    if stage < 3:
        gradients = [*_tensors(zero.averaged_gradients), *_tensors(zero.all_grad_tensors)]
        masters = list(zero.single_partition_of_fp32_groups)
    else:
        gradients = [zero.grad_partitions_flat_buffer]
        masters = list(zero.fp32_partitioned_groups_flat)
    gradients += [p.grad for p in model.parameters()]
    counts = _count(weights, gradients, [*masters, *_tensors(zero.optimizer.state)])
    engine.destroy()
    return counts


def _deepspeed(module: nn.Module, optimizer: torch.optim.Optimizer, stage: int, bf16: bool) -> Any:
    import deepspeed

    deepspeed.logger.setLevel(40)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # an operator for inference, compiled for a minute
    zero = {"stage": stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET, "overlap_comm": True}
    if stage == 3:
        zero |= {"stage3_param_persistence_threshold": PERSISTENT, "stage3_prefetch_bucket_size": 1000}
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero | {"contiguous_gradients": True},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bf16},
    }
    deepspeed.init_distributed("gloo", dist_init_required=False)
    return deepspeed.initialize(model=module, optimizer=optimizer, config=config, dist_init_required=False)[0]


class _Loss(nn.Module):
    def __init__(self, model: AudioLLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return loss_of(self.model, batch)


def loss_of(model: AudioLLM, batch: dict[str, Tensor]) -> Tensor:
    """Text and audio loss, as the training module joins them."""
    hidden = model(batch["input_ids"], codes=batch["codes"], position_ids=batch["position_ids"]).hidden
    text = token_cross_entropy(hidden, model.llm.get_output_embeddings().weight, batch["labels"])
    at = (batch["audio_labels"][..., 0] >= 0).nonzero(as_tuple=True)
    targets = batch["audio_labels"][at]
    return text + code_cross_entropy(model.audio_logits(hidden[at], targets), targets)[0]


def small_batch(model: AudioLLM, num_rows: int, row_tokens: int) -> dict[str, Tensor]:
    """Packed rows of documents of 32 positions: half text, half audio; every second of either is paid."""
    position = torch.arange(row_tokens).remainder(32).expand(num_rows, row_tokens).contiguous()
    is_audio = position >= 16
    codes = torch.zeros(int(is_audio.sum()), model.num_codebooks, dtype=torch.long)
    paid = position % 2 == 0
    return {
        "input_ids": torch.where(is_audio, model.audio_pad_id, 1),
        "position_ids": position,
        "codes": codes,
        "labels": torch.where(~is_audio & paid, 1, -100),
        "audio_labels": torch.where(is_audio & paid, 0, -100)[..., None].expand(-1, -1, model.num_codebooks).contiguous(),
    }


def _count(weights: Iterable[Tensor], gradients: Iterable[Tensor | None], optimizer: Iterable[Tensor]) -> dict[str, int]:
    """Bytes of the storages behind some tensors; one that serves twice counts where it comes first."""
    seen: set[int] = set()
    counts = {}
    for name, tensors in (("weights", weights), ("gradients", gradients), ("optimizer", optimizer)):
        counts[name] = 0
        for tensor in tensors:
            storage = None if tensor is None else tensor.untyped_storage()
            if storage is not None and storage.nbytes() and storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                counts[name] += storage.nbytes()
    return counts


def _tensors(node: Any) -> Iterator[Tensor]:
    """Every tensor inside mappings and lists."""
    if isinstance(node, Tensor):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _tensors(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _tensors(value)
