"""The mean of a figure that every item has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bcaudio.metrics.counting import FRACTION, CountingMetric, divide


class Mean(CountingMetric):
    """Mean and spread of a figure per item: opinion scores, speaker similarity, durations, real-time factors.

    Args:
        name: of the value.
        unit: of the figure; "" for a plain number.
        higher_is_better: None where neither is.
    """

    statistics = ("sum", "sum_of_squares", "n")
    name: str = "mean"

    def __init__(self, name: str, unit: str = "", higher_is_better: bool | None = None) -> None:
        super().__init__()
        self.name, self.unit, self._higher_is_better = name, unit, higher_is_better

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]  # given per instance here
        """As it was given."""
        return self._higher_is_better

    def update(self, values: Sequence[float], ids: Sequence[str] | None = None) -> None:
        """Adds one figure per item, below 46,340 in magnitude, so that its square is below 2^31; ValueError naming the id."""
        values = np.rint(np.asarray(values, np.float64) * FRACTION) / FRACTION
        self.add_rows(np.stack([values, values**2, np.ones_like(values)], axis=1), ids)

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """The mean."""
        return divide(sums[..., 0], sums[..., 2])

    def counts(self) -> dict[str, Any]:
        """The standard deviation of the items (n - 1 in the denominator; None for fewer than two), their number, and the unit."""
        total, squares, n = float(self.sum_of("sum")), float(self.sum_of("sum_of_squares")), self.count()
        deviation = math.sqrt(max(0.0, squares - total**2 / n) / (n - 1)) if n > 1 else None
        return {"standard_deviation": deviation, "n": n, "unit": self.unit}
