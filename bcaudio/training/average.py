"""An exponential moving average of the trained weights, which a stage may hand over in place of the last ones."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor


class EMA(L.Callback):
    """average = decay * average + (1 - decay) * weights after every step, over trained parameters alone; frozen ones stay as they
    are to the last bit. At the end of training the averages take the weights' place, before they are exported; validation sees
    the weights.

    Args:
        decay: share of the average that is left after a step.

    Raises:
        ValueError: a decay outside 0 to 1; at the start of training, under a strategy that keeps weights in pieces.
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"EMA: decay is {decay}; it must be at least 0 and below 1")
        self.decay = decay
        self.averages: dict[str, Tensor] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trained = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        if any(isinstance(p, DTensor) or hasattr(p, "ds_id") or hasattr(p, "_hp_mapping") for p in trained.values()):
            raise ValueError(
                "EMA: weights under ZeRO or FSDP lie in pieces; train under DDP (trainer.strategy: ddp) or remove the callback"
            )
        self.averages = {
            name: self.averages[name].to(p.device) if name in self.averages else p.detach().float().clone()
            for name, p in trained.items()
        }

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if getattr(batch, "micro", 0) < getattr(batch, "num_micro", 1) - 1:
            return
        for name, parameter in pl_module.named_parameters():
            if name in self.averages:
                self.averages[name].lerp_(parameter.float(), 1 - self.decay)

    @torch.no_grad()
    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for name, parameter in pl_module.named_parameters():
            if name in self.averages:
                parameter.copy_(self.averages[name])

    def state_dict(self) -> dict[str, Any]:
        return {"averages": {name: average.cpu() for name, average in self.averages.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.averages = dict(state_dict["averages"])
