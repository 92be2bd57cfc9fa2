"""Speech-to-text translation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bcaudio.evaluation.asr import of_language
from bcaudio.evaluation.benchmark import Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.metrics.bleu import BLEU, ChrF
from bcaudio.metrics.counting import CountingMetric


class SpeechTranslation:
    """`s2tt.<source>2<target>.bleu` and `.chrf`: speech in one language, text in the other (arXiv 2502.17239, section 4, S2TT).

    Both are sacrebleu's, on the texts as they are: the normaliser does not touch them.

    Args:
        shards: tar files or globs; or
        data: a corpus of `bcaudio.evaluation.corpora`.
        source, target: languages.
        limit: at most so many items.
        corpus, split: filters of the shards; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the languages.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        *,
        source: str,
        target: str,
        data: Corpus | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
        name: str = "s2tt",
    ) -> None:
        self.corpus = corpus_of(shards, data, limit, language=source, target_language=target, corpus=corpus, split=split)
        self.source, self.target, self.batch_size, self.audio_llm = source, target, batch_size, audio_llm
        self.name = f"{name}.{source}2{target}"

    def items(self) -> list[Item]:
        """ValueError where the data is of other languages; an item without a translation is a problem of its own."""
        items = of_language(self.corpus.items(self.name), self.source, self.name)
        other = next((item for item in items if item.sample.target_language != self.target), None)
        if other is not None:
            raise ValueError(
                f"{self.name}: item {other.id} is translated into {other.sample.target_language}, not {self.target}; "
                "set the benchmark's target or its data"
            )
        return [
            item
            if item.problem or (item.sample.translation or "").strip()
            else replace(item, problem=f"its reference translation {item.sample.translation!r} is empty")
            for item in items
        ]

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        return [
            {"id": item.id, "language": self.target, "reference": item.sample.translation, "hypothesis": text}
            for item, text in zip(items, system.answer_text(items, "s2tt"), strict=True)
        ]

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric]:
        metrics: dict[str, CountingMetric] = {}
        for metric in (BLEU(self.target), ChrF(self.target)):
            metric.update(*([out[field] for out in outputs] for field in ("hypothesis", "reference", "id")))
            metrics[f"{self.name}.{metric.name}"] = metric
        return metrics
