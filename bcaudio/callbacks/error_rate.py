"""Error rates during validation."""

from __future__ import annotations

from collections.abc import Sequence

from bcaudio.callbacks.hypotheses import HypothesisCallback
from bcaudio.metrics.error_rate import ErrorRate


class ErrorRateCallback(HypothesisCallback):
    """Logs `val/<task>.<language>.wer` (`cer` for zh). See HypothesisCallback."""

    def __init__(
        self,
        languages: Sequence[str] = ("en", "zh"),
        tasks: Sequence[str] = ("asr", "s2tt", "aqa", "text_repeat", "text_translate", "text_answer"),
        max_batches: int = 0,
    ) -> None:
        super().__init__(languages, tasks, max_batches)

    def metric(self, language: str) -> ErrorRate:
        """The error rate of one language."""
        return ErrorRate(language)
