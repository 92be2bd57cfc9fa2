"""How sure a figure is, and whether two systems differ: the percentile bootstrap over items (Efron 1979).

A resample draws as many items as there are, with replacement; its value is that of the sum of their statistics (BLEU and error
rates are those of a corpus, not means over sentences). Some resamples are drawn at a time, so that memory stays bounded; the same
rows and seed give the same figures, whatever the order of the items.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bcaudio.metrics.counting import CountingMetric

CHUNK = 2**22  # draws held at a time (32 MiB), one resample at least


@dataclass(frozen=True)
class PairedDifference:
    """How much higher the value of one system is than that of another on the same items.

    Attributes:
        difference: value of the first - value of the second.
        low, high: percentile interval of the difference.
        p_value: of the hypothesis that they do not differ, two-sided: where `a` of B resamples have a difference of at least 0
            and `b` one of at most 0, min(1, 2 (1 + min(a, b)) / (1 + B)). Which system comes first, and whether higher is
            better, does not change it; it is never below 2 / (1 + B).
        num_items: on which both were scored.
    """

    difference: float
    low: float
    high: float
    p_value: float
    num_items: int


def confidence_interval(
    metric: CountingMetric, num_samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The percentile interval of a metric's value.

    It says how much the value owes to the choice of items, no more: of a system without any error it has no width. Both ends are
    NaN where no resample has a value.

    Args:
        metric: filled; the items of this process alone are resampled.
        num_samples: resamples.
        seed: of the draws.
        level: share of the resamples inside the interval.

    Raises:
        ValueError: nothing was counted; no resamples; a level outside (0, 1).
    """
    _check(num_samples, level)
    if not len(metric.rows):
        raise ValueError(f"{type(metric).__name__}: no {metric.counted} was scored, so {metric.name} has no interval")
    return _interval(_resampled(metric.rows, metric.value_of, num_samples, seed), level)


def paired_difference(
    a: CountingMetric, b: CountingMetric, num_samples: int = 1000, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Whether `a` differs from `b`: both are resampled with the same items, matched by their ids.

    Args:
        a, b: filled, with the same value and the same ids in any order.
        num_samples, seed, level: as in `confidence_interval`.

    Raises:
        ValueError: different metrics; an id that only one has, or that one has twice; as `confidence_interval`.
    """
    _check(num_samples, level)
    if (a.name, a.statistics) != (b.name, b.statistics):
        raise ValueError(
            f"paired_difference: {a.name} of {type(a).__name__} cannot be compared with {b.name} of {type(b).__name__}"
        )
    first, second = _matched(a, b)
    swapped = first.tobytes() > second.tobytes()  # b against a draws the same resamples as a against b
    rows = np.concatenate([second, first] if swapped else [first, second], axis=1)
    width, sign = len(a.statistics), -1 if swapped else 1

    def difference(sums: np.ndarray) -> np.ndarray:
        return sign * (a.value_of(sums[..., :width]) - a.value_of(sums[..., width:]))

    found = _resampled(rows, difference, num_samples, seed)
    low, high = _interval(found, level)
    fewer = min(int((found <= 0).sum()), int((found >= 0).sum()))
    p_value = min(1.0, 2 * (1 + fewer) / (1 + len(found)))
    return PairedDifference(float(difference(rows.sum(axis=0))), low, high, p_value, len(rows))


def _check(num_samples: int, level: float) -> None:
    if num_samples < 1 or not 0 < level < 1:
        raise ValueError(f"bootstrap: num_samples {num_samples} must be at least 1 and level {level} between 0 and 1")


def _matched(a: CountingMetric, b: CountingMetric) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both, in the order of their ids."""
    for one in (a, b):
        if not one.ids:
            raise ValueError(f"paired_difference: no {one.counted} was scored, so {one.name} cannot be compared")
        item, times = Counter(one.ids).most_common(1)[0]
        if times > 1:
            raise ValueError(f"paired_difference: the id {item} occurs {times} times; give every item an id of its own")
    only_a, only_b = sorted(set(a.ids) - set(b.ids)), sorted(set(b.ids) - set(a.ids))
    if only_a or only_b:
        raise ValueError(
            f"paired_difference: the items differ: {len(only_a)} only in the first{_some(only_a)}, {len(only_b)} only in the "
            f"second{_some(only_b)}; score both on the same items"
        )
    kind = np.result_type(a.rows, b.rows)
    first, second = (one.rows[np.argsort(one.ids, kind="stable")].astype(kind) for one in (a, b))
    return first, second


def _some(ids: list[str]) -> str:
    return f" ({', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''})" if ids else ""


def _resampled(rows: np.ndarray, value_of: Callable[[np.ndarray], np.ndarray], num_samples: int, seed: int) -> np.ndarray:
    """Values of resamples of the rows [n, S]: float64 [num_samples], without those that have none."""
    rng, num = np.random.default_rng(seed), len(rows)
    rows = rows[np.lexsort(rows.T)].astype(np.float64)
    values, at_once = [], max(1, CHUNK // num)
    for start in range(0, num_samples, at_once):
        draws = np.empty((min(at_once, num_samples - start), num))
        for draw in draws:
            draw[:] = np.bincount(rng.integers(0, num, num, np.uint32), minlength=num)
        values.append(value_of(draws @ rows))
    found = np.concatenate(values)
    return found[~np.isnan(found)]


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
