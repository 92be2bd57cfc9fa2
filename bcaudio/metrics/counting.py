"""The base of every metric here: integer sums over ranks, one row of statistics per item, and a report that shows them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

FRACTION = 2.0**32
LIMIT = 2.0**31


class SummedMetric(Metric):
    """A metric whose whole state is integer sums, so that two halves of the data add up to the joint result, to the last bit.

    Subclasses register their sums with `add_count`, and give `name`, `value()`, `counts()` and `count()`.
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

    def add_count(self, name: str, shape: tuple[int, ...] = ()) -> None:
        """Registers an int64 sum named `name` of `shape`, added up over ranks."""
        self.add_state(name, default=torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

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


class CountingMetric(SummedMetric):
    """A metric of items: each gives a row of S additive statistics, and the value is a function of the rows' sum.

    Only the sums travel between ranks, the rows stay where they were counted. A sum is kept as whole numbers (`whole`) and
    2^-32ths (`parts`), both int64, so real-valued statistics are fixed-point numbers and 1, 2 or 3 ranks give bit-identical
    values in whatever order they count. A statistic of one item must be below 2^31 in magnitude (ValueError otherwise); then 2^32
    items, over all ranks, are the first that could overflow a sum.

    Attributes:
        statistics: names of the S statistics; `update` of the subclasses calls `add_rows`.
        counted: what is counted, for messages.
        ids: of the items counted on this rank, in order.
    """

    statistics: tuple[str, ...]
    counted = "item"

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self._rows: list[np.ndarray] = []
        for name in ("whole", "parts"):
            self.add_count(name, (len(self.statistics),))
        self.add_count("num_items")

    @abstractmethod
    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """sums [..., S] -> values float64 [...]; NaN where the sums define none."""

    @property
    def rows(self) -> np.ndarray:
        """Statistics per item of this rank [n, S]: int64, or where they are real float64, rounded to 2^-32."""
        if len(self._rows) != 1:
            self._rows = [np.concatenate([np.zeros((0, len(self.statistics)), np.int64), *self._rows])]
        return self._rows[0]

    def add_rows(self, rows: Any, ids: Sequence[str] | None = None) -> None:
        """Adds items: rows [n, S] and their ids; numbered on where there are none.

        Raises:
            ValueError: a statistic is not finite or not below 2^31 in magnitude (the id is named); not one id per row.
        """
        rows = np.asarray(rows)
        rows = rows.reshape(-1, len(self.statistics)).astype(np.int64 if rows.dtype.kind in "biu" else np.float64)
        names = [str(len(self.ids) + n) for n in range(len(rows))] if ids is None else [str(item) for item in ids]
        self._check_pairs(rows=rows, ids=names)
        beyond = ~(np.abs(rows) < LIMIT)  # so that NaN is among them
        if beyond.any():
            item, column = np.argwhere(beyond)[0]
            raise ValueError(
                f"{type(self).__name__}: {self.statistics[column]} of {names[item]} is {rows[item, column]}; it must be a number "
                f"below 2^31 in magnitude, so correct or drop the item"
            )
        whole = np.floor(rows)
        parts = np.rint((rows - whole) * FRACTION)
        if rows.dtype.kind == "f":
            rows = whole + parts / FRACTION  # what is summed is what is shown
        self.ids += names
        self._rows.append(rows)
        self.whole += torch.from_numpy(whole.astype(np.int64).sum(axis=0)).to(self.whole.device)
        self.parts += torch.from_numpy(parts.astype(np.int64).sum(axis=0)).to(self.parts.device)
        self.num_items += len(rows)
        self._computed = None

    def sums(self) -> np.ndarray:
        """The sums as they stand (over all ranks inside `report`), float64 [S]."""
        return self.whole.cpu().numpy() + self.parts.cpu().numpy() / FRACTION

    def sum_of(self, statistic: str) -> float:
        """One sum as it stands: an int where it is one."""
        at = self.statistics.index(statistic)
        whole, parts = int(self.whole[at]), int(self.parts[at])
        return whole + parts / FRACTION if parts else whole

    def value(self) -> Tensor:
        """The value of the sums, float64; ValueError if nothing was counted."""
        if self.count() == 0:
            raise ValueError(f"{type(self).__name__}: no {self.counted} was scored, so there is no {self.name}")
        return torch.from_numpy(np.asarray(self.value_of(self.sums()), np.float64))

    def count(self) -> int:
        """Items."""
        return int(self.num_items)

    def counts(self) -> dict[str, Any]:
        """The sums by name, and items."""
        return {**{name: self.sum_of(name) for name in self.statistics}, "items": self.count()}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Updates, and gives the value of these items alone."""
        before = len(self.ids)
        self.update(*args, **kwargs)
        return torch.from_numpy(np.asarray(self.value_of(self.rows[before:].sum(axis=0)), np.float64))

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Adds another metric of this class, with its rows."""
        if not isinstance(incoming_state, type(self)):
            raise ValueError(f"{type(self).__name__}: a {type(incoming_state).__name__} cannot be added to it")
        super().merge_state(incoming_state)
        self.ids += incoming_state.ids
        self._rows.append(incoming_state.rows)

    def reset(self) -> None:
        """Back to the state in which nothing was counted."""
        super().reset()
        self.ids, self._rows = [], []


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotients in float64, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, np.asarray(numerator, np.float64) / denominator)
