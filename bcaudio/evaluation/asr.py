"""Speech recognition by the audio LLM, and the auditor's own error rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result
from bcaudio.evaluation.hearing import TARGET_RATE, auditor_of, hear
from bcaudio.metrics.error_rate import ErrorRate


def error_rate(outputs: Sequence[Output], language: str, hypothesis: str = "hypothesis") -> tuple[str, Result]:
    """(`wer` or `cer`, result) of a field of the outputs against their `reference`."""
    metric = ErrorRate(language)
    metric.update([out[hypothesis] for out in outputs], [out["reference"] for out in outputs], [out["id"] for out in outputs])
    return metric.name, result(metric)


class SpeechRecognition:
    """`asr.<language>.wer` (`cer` for zh): the system writes what it hears (arXiv 2502.17239, section 4, ASR).

    Args:
        shards: tar files or globs with codes.
        language: of the items.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the language; None takes the class's own.
    """

    default_name = "asr"

    def __init__(
        self,
        shards: str | Sequence[str],
        language: str,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
        name: str | None = None,
    ) -> None:
        self.shards = as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.language, self.batch_size, self.audio_llm = language, batch_size, audio_llm
        self.name = self.default_name if name is None else name

    def items(self) -> list[Item]:
        return self.shards.items(f"{self.name}.{self.language}")

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        texts = system.answer_text([item.sample for item in items], "asr")
        return [
            {"id": item.sample.key, "language": item.sample.language, "reference": item.sample.spans[0].text, "hypothesis": text}
            for item, text in zip(items, texts, strict=True)
        ]

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        rate, scored = error_rate(outputs, self.language)
        return {f"{self.name}.{self.language}.{rate}": scored}


class AuditorRecognition(SpeechRecognition):
    """`auditor.<language>.wer`: how well the auditor hears ground-truth speech; every figure it gives of ours is to be read
    beside this.
    """

    default_name = "auditor"

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        heard = hear(auditor_of(system), [item.waveform(TARGET_RATE) for item in items], TARGET_RATE)
        return [
            {"id": item.sample.key, "language": item.sample.language, "reference": item.sample.text, "hypothesis": text}
            for item, text in zip(items, heard, strict=True)
        ]
