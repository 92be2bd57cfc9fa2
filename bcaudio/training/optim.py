"""The optimizer of every stage: AdamW with linear warm-up and cosine decay."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
        groups: parameters with rates of their own, as `{pattern, lr, weight_decay}` (`lr` and `weight_decay` as above where not
            given). The pattern is a regular expression over whole names below `model.`; the first that matches counts.

    Raises:
        ValueError: a group without a pattern or with another key.
    """

    def __init__(
        self,
        lr: float,
        max_steps: int,
        warmup_steps: int = 100,
        min_lr_share: float = 0.05,
        weight_decay: float = 0.01,
        betas: Sequence[float] = (0.9, 0.98),
        groups: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.lr, self.max_steps, self.warmup_steps = lr, max_steps, warmup_steps
        self.min_lr_share, self.weight_decay, self.betas = min_lr_share, weight_decay, tuple(betas)
        for group in groups:
            if "pattern" not in group or group.keys() - {"pattern", "lr", "weight_decay"}:
                raise ValueError(f"optimizer.groups: {dict(group)} needs a pattern and takes lr and weight_decay beside it")
        self.groups = [dict(group) for group in groups]

    def build(self, parameters: Iterable[nn.Parameter | tuple[str, nn.Parameter]]) -> dict[str, Any]:
        """The dict that Lightning's configure_optimizers returns; frozen parameters are left out.

        Args:
            parameters: with their names where there are groups.

        Raises:
            ValueError: a pattern that matches no trained parameter; nothing to train.
        """
        named = [entry if isinstance(entry, tuple) else ("", entry) for entry in parameters]
        trained = [(name.removeprefix("model."), parameter) for name, parameter in named if parameter.requires_grad]
        if not trained:
            raise ValueError("optimizer: no parameter is trained; widen `trainable` in the recipe")
        groups = [{"params": [], **group} for group in [*self.groups, {"pattern": ".*"}]]
        for name, parameter in trained:
            next(group for group in groups if re.fullmatch(group["pattern"], name))["params"].append(parameter)
        for group in groups[:-1]:
            if not group["params"]:
                raise ValueError(
                    f"optimizer.groups: {group['pattern']!r} matches no trained parameter that an earlier pattern has not taken; "
                    f"trained are for example {', '.join(name for name, _ in trained[:3])}"
                )
        optimizer = torch.optim.AdamW(list(self._parted(groups)), lr=self.lr, betas=self.betas)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parted(self, groups: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
        for group in groups:
            decay, lr = group.get("weight_decay", self.weight_decay), group.get("lr", self.lr)
            matrices = [p for p in group["params"] if len(getattr(p, "ds_shape", p.shape)) > 1]  # also where it is in pieces
            vectors = [p for p in group["params"] if len(getattr(p, "ds_shape", p.shape)) <= 1]
            if matrices:
                yield {"params": matrices, "lr": lr, "weight_decay": decay}
            if vectors:
                yield {"params": vectors, "lr": lr, "weight_decay": 0.0}

    def share(self, step: int) -> float:
        """Share of the peak rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        return self.min_lr_share + (1 - self.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
