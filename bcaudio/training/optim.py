"""The optimizer of every stage: AdamW with linear warm-up and cosine decay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


class AdamWCosine:
    """AdamW; matrices decay, vectors (norms, biases) do not.

    Args:
        lr: peak learning rate.
        warmup_steps: linear rise from 0.
        max_steps: where the cosine ends.
        min_lr_share: share of `lr` left at the end.
        weight_decay: of tensors with two or more axes.
        betas: of AdamW.
    """

    def __init__(
        self,
        lr: float,
        max_steps: int,
        warmup_steps: int = 100,
        min_lr_share: float = 0.05,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.98),
    ) -> None:
        self.lr, self.max_steps, self.warmup_steps = lr, max_steps, warmup_steps
        self.min_lr_share, self.weight_decay, self.betas = min_lr_share, weight_decay, tuple(betas)

    def build(self, parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
        """The dict that Lightning's configure_optimizers returns; frozen parameters are left out."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def share(self, step: int) -> float:
        """Share of the peak rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        return self.min_lr_share + (1 - self.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
