"""BLEU during validation."""

from __future__ import annotations

from collections.abc import Sequence

from bcaudio.callbacks.hypotheses import HypothesisCallback
from bcaudio.metrics.bleu import BLEU


class BleuCallback(HypothesisCallback):
    """Logs `val/<task>.<language>.bleu`; the language is that of the hypothesis. See HypothesisCallback."""

    def __init__(
        self,
        languages: Sequence[str] = ("en", "zh"),
        tasks: Sequence[str] = ("s2tt", "text_translate"),
        max_batches: int = 0,
    ) -> None:
        super().__init__(languages, tasks, max_batches)

    def metric(self, language: str) -> BLEU:
        """BLEU of one language."""
        return BLEU(language)
