"""How fast a stage trains, what for, and where the time goes."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.profilers import PassThroughProfiler, Profiler
from torch import Tensor, nn

from bcaudio.data.batch import PackedBatch
from bcaudio.distributed import all_reduce_sum, is_distributed, world_size
from bcaudio.planning.hardware import GPUS

PARTS = {
    "audio_embedding": r"model\.audio_embedding\..*",
    "llm_embedding": r"model\.llm\..*embed_tokens\..*",
    "llm_layers": r"model\.llm\..*layers\..*",
    "lm_head": r"model\.llm\.lm_head\..*",
    "audio_head": r"model\.audio_head\..*",
}


class Throughput(L.Callback):
    """Logs speed, packing, memory and gradient norms over windows of steps, summed over all ranks.

    - `throughput/text_tokens_per_s`, `audio_tokens_per_s`, `audio_hours_per_s` (a frame of codes is one audio token; padding
      counts as neither), `steps_per_s`, and `packing_fill`: real tokens / slots of the rows. Audio batches give hours alone.
    - `throughput/mfu`: tokens/s x flops_per_token / peak, as a share; only where both are known.
    - `throughput/data_share`: share of the time that the loop waits for a batch and for its way to the device.
    - `throughput/memory_gib`: the largest peak of any rank (device memory on a GPU, else resident memory).
    - `grad_norm/<part>`: L2 norm before clipping, of the last step of a window. Under DeepSpeed, which keeps gradients to itself,
      `grad_norm/total` alone.

    Validation and saving do not count as time. Counters stay on the device until a window ends.

    Args:
        every_n_steps: length of a window.
        frame_rate: frames of codes per second of audio, Hz.
        flops_per_token: forward and backward of one token, as `bcaudio plan` states it; None logs no MFU.
        peak_flops: FLOP/s of one device; None takes the planner's figure for a known GPU; no MFU elsewhere.
        parts: name -> pattern of whole parameter names, as the Lightning module has them; None: those of the audio LLM. Parts
            that match nothing trained are left out; `total` is always there.
    """

    def __init__(
        self,
        every_n_steps: int = 10,
        frame_rate: float = 12.5,
        flops_per_token: float | None = None,
        peak_flops: float | None = None,
        parts: Mapping[str, str] | None = None,
    ) -> None:
        if every_n_steps < 1:
            raise ValueError(f"Throughput: every_n_steps is {every_n_steps}; it must be at least 1")
        self.every_n_steps, self.frame_rate = every_n_steps, frame_rate
        self.flops_per_token, self.peak_flops = flops_per_token, peak_flops
        self.patterns = dict(PARTS if parts is None else parts)
        self.clock: _Clock | None = None
        self.values: dict[str, float] = {}
        self.own_s = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.profiler, PassThroughProfiler):
            self.clock = trainer.profiler = _Clock()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device = pl_module.device
        if self.peak_flops is None and device.type == "cuda":
            self.peak_flops = peak_of(torch.cuda.get_device_name(device))
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self.parts = {
            part: found
            for part, pattern in self.patterns.items()
            if (found := [p for name, p in trained.items() if re.fullmatch(pattern, name)])
        } | {"total": list(trained.values())}
        self.norms: dict[str, Tensor] = {}
        self._begin()

    def _begin(self) -> None:
        self.steps, self.audio_s = 0, 0.0
        self.tokens = self.frames = self.slots = 0
        self.began, self.paused_s = time.perf_counter(), 0.0
        if self.clock is not None:
            self.clock.data_s = self.clock.paused_s = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation_began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.paused_s += time.perf_counter() - self.validation_began

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any) -> None:
        if (self.steps + 1) % self.every_n_steps == 0:
            began = time.perf_counter()
            self.norms = {part: norm for part, found in self.parts.items() if (norm := grad_norm(found)) is not None}
            self.own_s += time.perf_counter() - began

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        began = time.perf_counter()
        if isinstance(batch, PackedBatch):
            self.tokens += batch.num_tokens
            self.slots += batch.input_ids.numel()
            self.frames += batch.codes.shape[0]
            self.audio_s += batch.codes.shape[0] / self.frame_rate
        elif lengths := getattr(getattr(batch, "audio", batch), "lengths", None):
            rate, samples = next(iter(lengths.items()))
            self.audio_s += float(samples.sum()) / rate
        if getattr(batch, "micro", 0) + 1 == getattr(batch, "num_micro", 1):
            self.steps += 1
            if self.steps == self.every_n_steps:
                self._log(trainer, pl_module)
        self.own_s += time.perf_counter() - began

    def _log(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        device, ranks = pl_module.device, world_size()
        paused = self.paused_s + (self.clock.paused_s if self.clock else 0.0)
        seconds = max(1e-9, time.perf_counter() - self.began - paused)
        data_s = self.clock.data_s if self.clock else float("nan")
        own = [self.tokens, self.frames, self.slots, self.audio_s, seconds, data_s]
        own_sums = torch.tensor(own, dtype=torch.float64, device=device)
        tokens, frames, slots, audio_s, seconds, data_s = all_reduce_sum(own_sums).tolist()
        memory = torch.tensor(_peak_memory(device) / 1024**3, dtype=torch.float64, device=device)
        if is_distributed():
            dist.all_reduce(memory, op=dist.ReduceOp.MAX)
        wall_s = seconds / ranks
        values = {"steps_per_s": self.steps / wall_s, "audio_hours_per_s": audio_s / 3600 / wall_s, "memory_gib": float(memory)}
        if slots:
            values |= {"text_tokens_per_s": (tokens - frames) / wall_s, "audio_tokens_per_s": frames / wall_s}
            values["packing_fill"] = tokens / slots
            if self.flops_per_token and self.peak_flops:
                values["mfu"] = tokens / wall_s * self.flops_per_token / (self.peak_flops * ranks)
        if self.clock is not None:
            values["data_share"] = data_s / seconds
        engine_norm = getattr(trainer.model, "get_global_grad_norm", None)
        if engine_norm is not None and engine_norm() is not None:
            self.norms["total"] = torch.as_tensor(float(engine_norm()))
        self.values = {f"throughput/{name}": value for name, value in values.items()}
        self.values |= {f"grad_norm/{part}": float(norm) for part, norm in self.norms.items()}
        pl_module.log_dict(self.values, on_step=True, on_epoch=False)
        self.norms = {}
        self._begin()


class _Clock(Profiler):
    """Adds up the time that Lightning's loop itself reports as waiting for a batch, and as saving."""

    DATA = (".train_dataloader_next", ".batch_to_device")

    def __init__(self) -> None:
        super().__init__()
        self.data_s = self.paused_s = 0.0
        self.running: dict[str, float] = {}

    def _counts(self, action: str) -> bool:
        return action.endswith(self.DATA) or (action.startswith("[Callback]") and "Checkpoint" in action)

    def start(self, action_name: str) -> None:
        if self._counts(action_name):
            self.running[action_name] = time.perf_counter()

    def stop(self, action_name: str) -> None:
        began = self.running.pop(action_name, None)
        if began is None:
            return
        if action_name.endswith(self.DATA):
            self.data_s += time.perf_counter() - began
        else:
            self.paused_s += time.perf_counter() - began


def peak_of(device_name: str) -> float | None:
    """Peak bf16 FLOP/s of a device such as "NVIDIA H100 80GB HBM3", from the planner's table; None for one that is not in it."""
    for name in sorted(GPUS, key=len, reverse=True):  # h100-pcie before h100, l40s before l4
        if all(word in device_name.lower() for word in name.split("-")[:-1]):  # the last word is the memory's size
            return GPUS[name].flops_per_s
    return None


def grad_norm(parameters: list[nn.Parameter]) -> Tensor | None:
    """L2 norm over all gradients, of all shards; None where there are none."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return None
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _peak_memory(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
