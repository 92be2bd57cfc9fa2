"""Keeps a loss or gradient that is no number, or far too large, away from the weights, and names the samples."""

from __future__ import annotations

import json
import statistics
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from bcaudio.distributed import all_reduce_sum, is_distributed, rank, world_size

NUM_KEYS = 32
MIN_HISTORY = 10


class NonFiniteLossError(RuntimeError):
    """The training loss or its gradient is NaN or infinite, or the loss jumped, more often than the recipe allows."""


@dataclass
class _Micro:
    items: list[Any]
    loss: Tensor | None = None


class NanGuard(L.Callback):
    """Skips, on all ranks alike, a step whose loss or gradient is not finite or whose loss is a spike; too many stop the run.

    The loss is that of the step: its micro-batches summed, its ranks averaged, by one small all-reduce right before the update.
    A skipped step changes no weight and no optimizer state; the learning rate's schedule and the order of the data go on, as
    both follow from the step's number. Its samples are named on stdout, in `logs/skipped.jsonl` and in the checkpoint. Under
    DeepSpeed, whose engine steps by itself, and under manual optimization nothing is skipped: the first such step stops the
    run.

    Args:
        max_skips: that many skipped steps within `window` steps are borne, the next one stops the run; 0 stops at the first.
        window: in steps.
        spike: a loss above this multiple of the median of the last `history` losses is a spike; None: only what is not finite.
        history: losses in the median; none is judged before 10 (or `history`) are there.
        folder: of `skipped.jsonl`; None takes `logs` in the trainer's root folder.

    Raises:
        NonFiniteLossError: while training, on every rank, with all skipped steps and their samples.
    """

    def __init__(
        self, max_skips: int = 0, window: int = 100, spike: float | None = None, history: int = 50, folder: str | None = None
    ) -> None:
        if max_skips < 0 or window < 1 or history < 1 or (spike is not None and spike <= 1):
            raise ValueError(
                f"NanGuard: max_skips {max_skips}, window {window}, history {history}, spike {spike}; "
                "max_skips must be at least 0, window and history at least 1, spike more than 1 (or null)"
            )
        self.max_skips, self.window, self.spike, self.folder = max_skips, window, spike, folder
        self.losses: deque[float] = deque(maxlen=history)
        self.skipped: list[dict[str, Any]] = []
        self.last_finite: tuple[int, float] | None = None
        self.micros: list[_Micro] = []
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self.losses), "skipped": self.skipped, "last_finite": list(self.last_finite or ())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses.extend(state_dict["losses"])
        self.skipped = list(state_dict["skipped"])
        last = state_dict["last_finite"]
        self.last_finite = (last[0], last[1]) if last else None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.odd_buffers = _non_finite_buffers(pl_module)  # a mask may hold -inf on purpose

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.step = int(getattr(batch, "step", trainer.global_step))
        if getattr(batch, "micro", 0) == 0 or not pl_module.automatic_optimization:
            self.micros = []
        self.micros.append(_Micro(list(getattr(batch, "items", []))))

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.micros[-1].loss = loss.detach()
        if not pl_module.automatic_optimization and (reason := self._reason([])):
            self._stop(reason, "this module steps its optimizers by hand")

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not pl_module.automatic_optimization:
            return
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        reason = self._reason(gradients)
        if not reason:
            return
        optimizer.zero_grad(set_to_none=True)  # without a gradient an optimizer leaves weight, moments and step count alone
        if isinstance(trainer.strategy, DeepSpeedStrategy):
            self._stop(reason, "DeepSpeed's engine steps by itself")
        spoilt = sorted(_non_finite_buffers(pl_module) - self.odd_buffers)
        if spoilt:
            self._stop(reason, f"the forward pass has spoilt {', '.join(spoilt[:4])}")
        entry = {"step": self.step, "reason": reason, "samples": self._samples(), "last_finite": self._last()}
        self.skipped = [old for old in self.skipped if old["step"] > self.step - self.window] + [entry]
        if len(self.skipped) > self.max_skips:
            self._stop_after(self.skipped)
        pl_module.log("guard/skipped", float(len(self.skipped)), on_step=True, on_epoch=False)
        if rank() == 0:
            self._write(trainer, entry)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if isinstance(trainer.strategy, DeepSpeedStrategy) and not str(trainer.precision).startswith("16"):
            norm = trainer.model.get_global_grad_norm()
            if norm is not None and not torch.isfinite(torch.as_tensor(float(norm))):
                self._stop(f"the gradient's norm is {float(norm)}", "DeepSpeed's engine has stepped by itself")

    def _reason(self, gradients: list[Tensor]) -> str:
        """What is wrong with this step, the same on every rank; empty when nothing is."""
        losses = [micro.loss for micro in self.micros if micro.loss is not None]
        loss = torch.stack([loss.double() for loss in losses]).sum()
        bad = torch.zeros_like(loss)
        if gradients:
            norm = torch.nn.utils.get_total_norm(gradients)
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            bad = (~torch.isfinite(norm)).to(loss)
        total, num_bad = all_reduce_sum(torch.stack([loss, bad])).tolist()
        value = total / world_size()
        if not torch.isfinite(torch.tensor(value)):
            return f"the loss is {value}"
        if num_bad:
            return "the gradient is not finite"
        if self.spike is not None and len(self.losses) >= min(MIN_HISTORY, self.losses.maxlen or 0):
            median = statistics.median(self.losses)
            if value > self.spike * median > 0:
                return f"the loss is {value:.4g}, more than {self.spike:g} times its running median {median:.4g}"
        self.losses.append(value)
        self.last_finite = (self.step, value)
        return ""

    def _last(self) -> str:
        if self.last_finite is None:
            return "there was no finite loss before"
        return "the last good loss was {1:.4g} at step {0}".format(*self.last_finite)

    def _samples(self) -> list[dict[str, Any]]:
        """The micro-batches to blame, of all ranks: those whose loss is not finite, else those above a spike, else all."""
        own = [
            {
                "rank": rank(),
                "micro": number,
                "loss": float("nan") if micro.loss is None else float(micro.loss),
                "keys": [item.sample.key for item in micro.items[:NUM_KEYS]],
                "num_keys": len(micro.items),
                "tasks": sorted({str(item.task) for item in micro.items if hasattr(item, "task")}),
            }
            for number, micro in enumerate(self.micros)
        ]
        everyone: list[Any] = [own]
        if is_distributed():
            everyone = [None] * world_size()
            dist.all_gather_object(everyone, own)
        micros = [entry for entries in everyone for entry in entries]
        blamed = [entry for entry in micros if not torch.isfinite(torch.tensor(entry["loss"]))]
        if not blamed and self.spike is not None and self.losses:
            limit = (
                self.spike * statistics.median(self.losses) / len(self.micros)
            )  # a micro-batch's loss is its share of the step's
            blamed = [entry for entry in micros if entry["loss"] > limit]
        return blamed or micros

    def _stop(self, reason: str, why: str) -> None:
        entry = {"step": self.step, "reason": f"{reason}; {why}, so that no step can be skipped", "samples": self._samples()}
        self._stop_after([{**entry, "last_finite": self._last()}])

    def _stop_after(self, entries: list[dict[str, Any]]) -> None:
        count = f"{len(entries)} bad steps within {self.window}, max_skips is {self.max_skips}: " if len(entries) > 1 else ""
        raise NonFiniteLossError(
            f"{count}{' | '.join(_line(entry) for entry in entries)}. "
            "Look at these samples, lower the learning rate, or clip the gradient, then resume from the last checkpoint"
        )

    def _write(self, trainer: L.Trainer, entry: dict[str, Any]) -> None:
        folder = Path(trainer.default_root_dir) / "logs" if self.folder is None else Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "skipped.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
        print(f"skipped {_line(entry)} ({len(self.skipped)} of {self.max_skips} within {self.window} steps)", flush=True)


def _line(entry: dict[str, Any]) -> str:
    names = []
    for part in entry["samples"]:
        more = f" and {part['num_keys'] - len(part['keys'])} more" if part["num_keys"] > len(part["keys"]) else ""
        tasks = f" ({', '.join(part['tasks'])})" if part["tasks"] else ""
        names.append(f"rank {part['rank']}, loss {part['loss']:.4g}: {', '.join(part['keys']) or 'unknown'}{more}{tasks}")
    return f"step {entry['step']}: {entry['reason']}; {entry['last_finite']}; samples: {'; '.join(names)}"


def _non_finite_buffers(module: torch.nn.Module) -> set[str]:
    """Names of the floating-point buffers (such as a codebook's averages) that hold a NaN or an infinity."""
    return {name for name, b in module.named_buffers() if b.is_floating_point() and not bool(torch.isfinite(b).all())}
