"""Stops a run whose loss is no longer a number, before it harms the weights."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor


class NonFiniteLossError(RuntimeError):
    """The training loss is NaN or infinite."""


class NanGuard(L.Callback):
    """Raises NonFiniteLossError before the backward pass, with the step, the samples of the batch and the last finite loss."""

    def __init__(self) -> None:
        self.last_finite: tuple[int, float] | None = None
        self.batch: Any = None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.batch = batch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batch = None

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        value, step = loss.detach(), int(getattr(self.batch, "step", trainer.global_step))
        if torch.isfinite(value).all():
            self.last_finite = (step, float(value))
            return
        last = (
            "there was no finite loss before"
            if self.last_finite is None
            else "the last finite loss was {1:.4g} at step {0}".format(*self.last_finite)
        )
        keys = [item.sample.key for item in getattr(self.batch, "items", [])]
        raise NonFiniteLossError(
            f"step {step}: the loss is {float(value)}; {last}; samples: {', '.join(keys[:32]) or 'unknown'}"
            f"{f' and {len(keys) - 32} more' if len(keys) > 32 else ''}. "
            "Look at these samples, lower the learning rate, or clip the gradient, then resume from the last checkpoint"
        )
