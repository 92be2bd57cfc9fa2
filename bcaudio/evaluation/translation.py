"""Speech-to-text translation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result
from bcaudio.metrics.bleu import BLEU


class SpeechTranslation:
    """`s2tt.<source>2<target>.bleu`: speech in one language, text in the other (arXiv 2502.17239, section 4, S2TT).

    Args:
        shards: tar files or globs with codes.
        source, target: languages.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        source: str,
        target: str,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
    ) -> None:
        self.shards = as_shards(shards, language=source, target_language=target, corpus=corpus, limit=limit, split=split)
        self.source, self.target, self.batch_size, self.audio_llm = source, target, batch_size, audio_llm

    def items(self) -> list[Item]:
        return self.shards.items(f"s2tt.{self.source}2{self.target}")

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        texts = system.answer_text([item.sample for item in items], "s2tt")
        return [
            {"id": item.sample.key, "language": self.target, "reference": item.sample.translation or "", "hypothesis": text}
            for item, text in zip(items, texts, strict=True)
        ]

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        metric = BLEU(self.target)
        metric.update(
            [out["hypothesis"] for out in outputs], [out["reference"] for out in outputs], [out["id"] for out in outputs]
        )
        return {f"s2tt.{self.source}2{self.target}.bleu": result(metric)}
