"""Shares of right answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bcaudio.metrics.counting import CountingMetric


class Accuracy(CountingMetric):
    """Right answers / answers."""

    higher_is_better = True
    name = "accuracy"

    def __init__(self) -> None:
        super().__init__()
        self.add_count("correct")
        self.add_count("total")

    def update(self, correct: Sequence[bool]) -> None:
        """Adds one answer per entry: True where it is right."""
        self.correct += sum(bool(answer) for answer in correct)
        self.total += len(correct)

    def value(self) -> Tensor:
        """The share of right answers, float64."""
        if self.count() == 0:
            raise ValueError(f"{type(self).__name__}: no answer was scored")
        return self.correct.to(torch.float64) / self.total

    def count(self) -> int:
        """Answers."""
        return int(self.total)

    def counts(self) -> dict[str, Any]:
        """Right answers and answers."""
        return {"correct": int(self.correct), "total": int(self.total)}


class ChoiceAccuracy(Accuracy):
    """How often the right continuation has the lower perplexity (arXiv 2502.17239, section 4: sStoryCloze, sCMMLU).

    A tie, or a perplexity that is not a number, is a wrong choice.
    """

    def update(self, right: Sequence[float], wrong: Sequence[float]) -> None:
        """Adds one choice per pair of perplexities (or mean negative log-likelihoods): lower is better."""
        self._check_pairs(right=right, wrong=wrong)
        super().update([r < w for r, w in zip(right, wrong, strict=True)])
