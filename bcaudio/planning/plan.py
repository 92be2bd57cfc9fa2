"""Put together what a stage needs on given machines: memory by ZeRO stage, what to change, time, cost, disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from bcaudio.models.audio_llm import AudioLLM
from bcaudio.planning.hardware import GIB, Gpu
from bcaudio.planning.memory import Sharding, StateBytes, communication_bytes, sizes_of, state_bytes, step_bytes
from bcaudio.planning.parameters import Part, parts_of, sum_of
from bcaudio.planning.subject import Subject, subject_of
from bcaudio.planning.trace import Trace
from bcaudio.planning.workload import CODE_RATE_HZ, Workload

RUNTIME_BYTES = 2 * GIB  # CUDA context, NCCL, workspaces of kernels: assumed
GAPS = 0.05  # of the rest, lost between the allocator's blocks: assumed
LOSS_CHUNK = 512  # positions whose logits exist at a time (losses.token_cross_entropy)
SAMPLE_BYTES = 2048  # JSON, tar headers and index of a sample
# what a change costs, in shares of the time of a step: rough, they only order the advice
COSTS = {
    "stage 2": 0.01,
    "rows": 0.02,
    "stage 3": 0.1,
    "checkpointing": 0.33,
    "offload_optimizer": 0.5,
    "offload_parameters": 1.0,
}


@dataclass(frozen=True)
class Machine:
    """What a stage would run on.

    Args:
        gpu: of one kind; nodes, gpus_per_node: how many.
        mfu: share of the GPU's peak that training reaches.
        price: per GPU and hour, in any currency; None: not known.

    Raises:
        ValueError: a number out of range.
    """

    gpu: Gpu
    nodes: int = 1
    gpus_per_node: int = 8
    mfu: float = 0.4
    price: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("--nodes", self.nodes), ("--gpus-per-node", self.gpus_per_node)):
            if value < 1:
                raise ValueError(f"{name}: is {value}, but must be at least 1")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"--mfu: is {self.mfu}, but must lie above 0 and be at most 1; 0.4 is usual")
        if self.price is not None and self.price < 0:
            raise ValueError(f"--price-per-gpu-hour: is {self.price}, but must not be negative")

    @property
    def world_size(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True)
class Option:
    """A way to run the stage: sharding, checkpointing, and the rows of a micro-batch."""

    sharding: Sharding
    checkpointing: bool
    rows: int


@dataclass(frozen=True)
class Memory:
    """Bytes of a rank at its peak."""

    state: StateBytes
    activations: int
    loss: int
    communication: int
    step: int
    buffers: int

    @property
    def peak(self) -> int:
        """All together; the optimizer's step comes when the activations are gone."""
        live = self.state.total + self.communication + self.buffers + max(self.activations + self.loss, self.step)
        return RUNTIME_BYTES + int(live * (1 + GAPS))


class StagePlan:
    """The plan of one stage.

    Args:
        recipe: resolved; `???` may stand in `takes` and `out`.
        path: its file.
        machine: what it would run on.
        clip_s: seconds of audio of a typical sample.
    """

    def __init__(self, recipe: Mapping[str, Any], path: Path, machine: Machine, clip_s: float = 12.0) -> None:
        self.recipe, self.path, self.machine = recipe, path, machine
        self.subject: Subject = subject_of(recipe, path)
        self.work: Workload = self.subject.workload(recipe, machine.world_size, clip_s)
        self.sizes = sizes_of(self.subject.modules)
        self._traces: dict[tuple[int, bool, bool], Trace] = {}

    @property
    def name(self) -> str:
        """The stage's name."""
        return str(self.recipe.get("name", self.path.stem))

    @cached_property
    def parts(self) -> list[Part]:
        """Parameters of the model and of what lies beside it."""
        beside = [part for name, module in self.subject.beside.items() for part in [sum_of(parts_of(module), f"{name} (beside)")]]
        return parts_of(self.subject.model) + beside

    @property
    def as_written(self) -> Option:
        """How the recipe runs."""
        trainer = self.recipe.get("trainer", {})
        strategy = trainer.get("strategy", "auto")
        options: dict[str, Any] = {"stage": 0}
        if isinstance(strategy, Mapping):
            target = str(strategy.get("_target_", "")).rpartition(".")[2]
            if target == "ZeRO":
                options["stage"] = int(strategy.get("stage", 2))
                options |= {key: strategy[key] for key in ("offload_optimizer", "offload_parameters") if key in strategy}
                options["bucket_elements"] = int(strategy.get("bucket_elements", 200_000_000))
            elif "FSDP" in target:
                options["stage"] = 3
        elif str(strategy).startswith("deepspeed_stage_"):
            options["stage"] = int(str(strategy).split("_")[2])
        bf16 = str(trainer.get("precision", "32-true")).startswith("bf16")
        sharding = Sharding(world_size=self.machine.world_size, bf16=bf16, **options)
        return Option(sharding, bool(self.recipe["module"].get("gradient_checkpointing", False)), self.work.rows)

    def trace(self, rows: int, deepspeed: bool, checkpointing: bool) -> Trace:
        """A step of one rank, traced once."""
        key = (rows, deepspeed, checkpointing)
        if key not in self._traces:
            bf16 = self.as_written.sharding.bf16
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # kernels that fake tensors cannot take, names that will change
                self._traces[key] = self.subject.trace(self.work, rows, bf16, deepspeed, checkpointing)
        return self._traces[key]

    def activations(self, rows: int, deepspeed: bool, checkpointing: bool) -> int:
        """Bytes saved for the backward pass of `rows` rows; with checkpointing also one layer's, which are made again.

        Activations grow evenly with the rows, so that one and two rows tell all: the rest are copies of weights.
        """
        one = self.trace(1, deepspeed, checkpointing).saved_bytes
        more = self.trace(2, deepspeed, checkpointing).saved_bytes - one if rows > 1 else 0
        saved = one + (rows - 1) * more
        if checkpointing and isinstance(self.subject.model, AudioLLM):
            layers = self.subject.model.llm.config.num_hidden_layers
            saved += max(0, self.activations(rows, deepspeed, False) - saved) // layers
        return saved

    def memory(self, option: Option) -> Memory:
        """What a rank needs under an option."""
        sharding = option.sharding
        return Memory(
            state_bytes(self.sizes, sharding),
            self.activations(option.rows, sharding.stage > 0, option.checkpointing),
            self._loss_bytes(sharding),
            communication_bytes(self.sizes, sharding),
            step_bytes(self.sizes, sharding),
            sum(b.numel() * b.element_size() for module in self.subject.modules for b in module.buffers()),
        )

    def _loss_bytes(self, sharding: Sharding) -> int:
        """One chunk of text logits in the type of the products and in fp32, and the text head's gradient where it learns."""
        model = self.subject.beside.get("text LLM", self.subject.model)
        if not isinstance(model, AudioLLM):
            return 0
        head = model.llm.get_output_embeddings().weight
        logits = LOSS_CHUNK * head.shape[0] * (6 if sharding.bf16 else 4)
        return logits + (4 * head.numel() if head.requires_grad else 0)

    def fits(self, option: Option) -> bool:
        """Whether the peak is below the GPU's memory."""
        return self.memory(option).peak <= self.machine.gpu.memory_bytes

    @cached_property
    def advised(self) -> Option | None:
        """The recipe's own way if it fits, else the cheapest change that makes it fit; None where nothing does."""
        return next((option for option in self.ways if self.fits(option)), None)

    @cached_property
    def ways(self) -> list[Option]:
        """Ways to run, the recipe's own first, then by rising cost."""
        own = self.as_written
        rows = {own.rows}
        while min(rows) > 1:
            rows.add(min(rows) // 2)
        # models that take sound train under DDP (strategies.ZeRO)
        stages = {own.sharding.stage} | ({2, 3} if self.subject.can_checkpoint else set())
        found = []
        for stage, checkpointing, num_rows, optimizer, parameters in product(
            stages, (False, True) if self.subject.can_checkpoint else (False,), rows, (False, True), (False, True)
        ):
            if stage < own.sharding.stage or checkpointing < own.checkpointing:
                continue
            if (optimizer and stage == 0) or (parameters and (stage != 3 or not optimizer)):
                continue
            cost = COSTS.get(f"stage {stage}", 0.0) if stage != own.sharding.stage else 0.0
            cost += COSTS["checkpointing"] * (checkpointing - own.checkpointing)
            cost += COSTS["rows"] * (own.rows // num_rows - 1)
            cost += COSTS["offload_optimizer"] * optimizer + COSTS["offload_parameters"] * parameters
            sharding = replace(own.sharding, stage=stage, offload_optimizer=optimizer, offload_parameters=parameters)
            found.append((cost, Option(sharding, checkpointing, num_rows)))
        return [option for _, option in sorted(found, key=lambda pair: pair[0])]

    def changes(self, option: Option) -> list[str]:
        """What to write into the recipe for an option."""
        own, sharding = self.as_written, option.sharding
        found = []
        if sharding != own.sharding:
            more = "".join(f", {name}: true" for name in ("offload_optimizer", "offload_parameters") if getattr(sharding, name))
            found.append(f"trainer.strategy: {{_target_: bcaudio.strategies.deepspeed.ZeRO, stage: {sharding.stage}{more}}}")
        if option.checkpointing and not own.checkpointing:
            found.append("module.gradient_checkpointing: true")
        if option.rows != own.rows:
            accumulate = self.work.accumulate * -(-own.rows // option.rows)
            found.append(
                f"{option.rows} instead of {own.rows} rows per GPU at a time (data.rows with data.accumulate: {accumulate})"
            )
        return found

    # --- compute and time

    @property
    def flops(self) -> Trace:
        """A step with one row, by part."""
        return self.trace(1, self.as_written.sharding.stage > 0, False)

    def flops_per_token(self, checkpointing: bool) -> float:
        """Forward and backward, and the language model forward once more with checkpointing."""
        again = self.flops.forward.get("language model", 0.0) if checkpointing else 0.0
        return (self.flops.flops + again) / self.work.row_tokens

    @property
    def steps(self) -> int:
        """Optimizer steps of the stage."""
        return int(self.recipe["max_steps"])

    def tokens_per_s(self, checkpointing: bool) -> float:
        """Of all GPUs together at the stated share of their peak."""
        speed = self.machine.world_size * self.machine.gpu.flops_per_s * self.machine.mfu
        return speed / self.flops_per_token(checkpointing)

    def hours(self, checkpointing: bool) -> float:
        """Of the whole stage."""
        return self.steps * self.work.tokens / self.tokens_per_s(checkpointing) / 3600

    @property
    def audio_hours(self) -> float:
        """Hours of audio that the whole stage reads, repeated passes counted."""
        return self.steps * self.work.tokens * self.work.frames_per_token / CODE_RATE_HZ / 3600

    def disk(self) -> dict[str, int]:
        """Bytes on disk: a checkpoint, the weights handed over, the data as codes and as 24 kHz sound."""
        whole = sum_of(parts_of(self.subject.model))
        learned = sum(size.numel for size in self.sizes if size.trained)
        stage0 = self.as_written.sharding.stage == 0
        buffers = sum(b.numel() * b.element_size() for b in self.subject.model.buffers())
        codebooks = len(self.recipe.get("codebook_sizes", ())) or 8
        seconds = self.audio_hours * 3600
        samples = self.steps * self.work.samples
        return {
            "checkpoint": 12 * learned + (4 if stage0 else 2) * whole.frozen + buffers,
            "model.safetensors": 4 * whole.total + buffers,
            "data as codes": int(seconds * CODE_RATE_HZ * codebooks * 2 + samples * SAMPLE_BYTES),
            "data as 24 kHz FLAC": int(seconds * 24000 * 2 * 0.55 + samples * SAMPLE_BYTES),
        }

    def command(self, option: Option | None = None) -> str:
        """What to type next."""
        takes = [f"takes.{name}=FOLDER" for name, value in (self.recipe.get("takes") or {}).items() if value == "???"]
        takes += ["out=FOLDER"] if self.recipe.get("out", "???") == "???" else []
        if self.machine.nodes > 1:
            return " ".join([f"bcaudio launch {self.path} --backend slurm --nodes {self.machine.nodes}", *takes])
        return " ".join([f"bcaudio train {self.path}", *takes])
