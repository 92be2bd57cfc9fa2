"""The base of every metric here: integer or float64 counts, summed over ranks, and a report that shows them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class CountingMetric(Metric):
    """A metric whose whole state is sums, so that two halves of the data add up to the joint result.

    Subclasses register their sums with `add_count`, and give `name`, `value()` and `counts()`.
    """

    full_state_update = False
    higher_is_better: bool | None = None

    @property
    @abstractmethod
    def name(self) -> str:
        """The name of the value in a report, e.g. `wer`."""

    @abstractmethod
    def value(self) -> Tensor:
        """The value of the sums as they stand; ValueError if nothing was counted."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """The sums as plain numbers, by name."""

    @abstractmethod
    def count(self) -> int:
        """How many things were counted on this rank (on all ranks inside `report`); 0 means that there is no value."""

    def add_count(self, name: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.int64) -> None:
        """Registers a sum named `name` of `shape`, added up over ranks."""
        self.add_state(name, default=torch.zeros(shape, dtype=dtype), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """The value, summed over ranks (torchmetrics synchronises around this call)."""
        return self.value()

    def report(self, allow_empty: bool = False) -> dict[str, Any]:
        """The value under `name` and every count, summed over ranks; every rank must call it.

        With `allow_empty`, an empty dict if nothing was counted on any rank (the ranks agree, since they see the same sums).
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            if allow_empty and self.count() == 0:
                return {}
            value = self.value()
            return {self.name: value.item() if value.ndim == 0 else value.tolist(), **self.counts()}

    def _check_pairs(self, **sequences: Any) -> None:
        lengths = {name: len(values) for name, values in sequences.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{type(self).__name__}.update: the lists must be equally long, but have {lengths}")
