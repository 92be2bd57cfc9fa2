"""Shares of right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bcaudio.metrics.counting import CountingMetric, divide


class Accuracy(CountingMetric):
    """Right answers / answers, or the mean of scores from 0 (wrong) to 1 (right)."""

    higher_is_better = True
    counted = "answer"
    name = "accuracy"
    statistics = ("correct", "total")

    def update(self, correct: Sequence[bool | float], ids: Sequence[str] | None = None) -> None:
        """Adds one answer per entry: True (or 1) where it is right, False (or 0) where it is wrong, a score in between.

        Raises:
            ValueError: a score outside [0, 1]; its id (or number) is named.
        """
        scores = np.array([float(score) for score in correct])
        outside = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
        if len(outside):
            item = outside[0] if ids is None else ids[outside[0]]
            raise ValueError(f"{type(self).__name__}: the score of {item} is {scores[outside[0]]}; it must lie in [0, 1]")
        whole = scores.astype(np.int64)
        scores = whole if (whole == scores).all() else scores
        self.add_rows(np.stack([scores, np.ones_like(scores)], axis=1), ids)

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """The share of right answers."""
        return divide(sums[..., 0], sums[..., 1])

    def counts(self) -> dict[str, Any]:
        """Right answers (or the sum of scores) and answers."""
        return {"correct": self.sum_of("correct"), "total": self.count()}


class ChoiceAccuracy(Accuracy):
    """How often the right choice is strictly the best (arXiv 2502.17239, section 4: sStoryCloze, sCMMLU, by perplexity).

    A tie with a wrong one, or a figure that is not a number, is a wrong choice.
    """

    def update(  # type: ignore[override]  # choices come as their losses, right and wrong
        self, right: Sequence[float], wrong: Sequence[float | Sequence[float]], ids: Sequence[str] | None = None
    ) -> None:
        """Adds one choice per entry, from perplexities (or mean negative log-likelihoods): lower is better.

        Args:
            right: of the right choice.
            wrong: of the wrong one, or of all wrong ones.

        Raises:
            ValueError: an entry without a wrong choice.
        """
        self._check_pairs(right=right, wrong=wrong)
        others = [np.atleast_1d(np.asarray(figures, np.float64)) for figures in wrong]
        for number, figures in enumerate(others):
            if not figures.size:
                item = number if ids is None else ids[number]
                raise ValueError(f"{type(self).__name__}: {item} has no wrong choice, so nothing can be chosen")
        super().update([bool(np.all(best < figures)) for best, figures in zip(right, others, strict=True)], ids)

    def update_scores(self, scores: Sequence[Sequence[float]], ids: Sequence[str] | None = None) -> None:
        """Adds one choice per entry: the log-likelihoods (higher is better) of its choices, the right one first."""
        self.update([-row[0] for row in scores], [[-score for score in row[1:]] for row in scores], ids)
