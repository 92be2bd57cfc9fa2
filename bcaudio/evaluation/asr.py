"""Speech recognition by the audio LLM, and a recogniser's own error rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bcaudio.evaluation.benchmark import Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.evaluation.hearing import TARGET_RATE
from bcaudio.evaluation.recognizers import Auditor, Recognizer, hear_items
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.text.normalize import DEFAULT


class HeardErrorRate(ErrorRate):
    """An error rate of what a recogniser wrote, whose report says which one.

    Args:
        recognizer: its stamp.
    """

    def __init__(self, language: str, normalizer: Any = None, recognizer: Mapping[str, Any] | None = None) -> None:
        super().__init__(language, normalizer)
        self.recognizer = dict(recognizer or {})

    def counts(self) -> dict[str, Any]:
        """Beside the counts of ErrorRate the stamp of the recogniser."""
        return {**super().counts(), "recognizer": self.recognizer}


def error_rate(outputs: Sequence[Output], language: str, scoring: Scoring, hypothesis: str = "hypothesis") -> ErrorRate:
    """The error rate of a field of the outputs against their `reference`.

    Beside what a recogniser wrote stands its stamp: `recognizer` beside `hypothesis`, `x_recognizer` beside `x_hypothesis`. An
    output whose reference is empty in the normaliser's form (a filler word in whisper-1) is left out: it is not among the
    metric's ids.
    """
    stamp = next((out[key] for out in outputs if (key := hypothesis.replace("hypothesis", "recognizer")) in out), None)
    metric = ErrorRate(language, scoring.normalizer) if stamp is None else HeardErrorRate(language, scoring.normalizer, stamp)
    if scoring.normalizer.name != DEFAULT:  # in the default form `with_reference` has seen to it
        outputs = [out for out in outputs if metric.units(out["reference"])]
    metric.update([out[hypothesis] for out in outputs], [out["reference"] for out in outputs], [out["id"] for out in outputs])
    return metric


def with_reference(items: Sequence[Item], language: str, reference: Any) -> list[Item]:
    """The items, those with an empty reference marked as a problem.

    Args:
        reference: Item -> text.
    """
    units = ErrorRate(language).units
    return [
        item
        if item.problem or units(reference(item))
        else replace(item, problem=f"its reference {reference(item)!r} is empty after normalisation ({DEFAULT}, {language})")
        for item in items
    ]


def of_language(items: Sequence[Item], language: str, where: str) -> Sequence[Item]:
    """The items; ValueError naming `where` if one is in another language (`mixed` takes all)."""
    other = next((item for item in items if language not in (item.sample.language, "mixed")), None)
    if other is not None:
        raise ValueError(
            f"{where}: item {other.id} is in {other.sample.language}, not {language}; set the benchmark's language or its data"
        )
    return items


class SpeechRecognition:
    """`asr.<language>.wer` (`cer` for zh): the system writes what it hears (arXiv 2502.17239, section 4, ASR).

    Args:
        shards: tar files or globs; or
        data: a corpus of `bcaudio.evaluation.corpora`.
        language: of the items: en, zh, fr, es, or `mixed`.
        by: a field of the items, such as `dialect`: each of its values also gets `asr.<language>.<rate>.<value>`.
        limit: at most so many items.
        corpus, split: filters of the shards; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before the language.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        *,
        language: str,
        data: Corpus | None = None,
        by: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
        name: str = "asr",
    ) -> None:
        ErrorRate(language)  # an unknown language is said before anything is asked
        kept = None if language == "mixed" else language
        self.corpus = corpus_of(shards, data, limit, language=kept, corpus=corpus, split=split)
        self.language, self.by, self.batch_size, self.audio_llm = language, by, batch_size, audio_llm
        self.name = f"{name}.{language}"

    def reference(self, item: Item) -> str:
        """What is said in what is heard: the first span."""
        return item.sample.spans[0].text

    def items(self) -> list[Item]:
        items = with_reference(of_language(self.corpus.items(self.name), self.language, self.name), self.language, self.reference)
        without = next((item.id for item in items if self.by is not None and self.by not in item.fields), None)
        if without is not None:
            raise ValueError(f"{self.name}: by is {self.by!r}, but item {without} has no such field; leave `by` out")
        return items

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        return self._outputs(items, system.answer_text(items, "asr"))

    def _outputs(self, items: Sequence[Item], texts: Sequence[str]) -> list[Output]:
        return [
            {"id": item.id, "language": item.sample.language, "reference": self.reference(item), "hypothesis": text}
            | ({} if self.by is None else {self.by: item.fields[self.by]})
            for item, text in zip(items, texts, strict=True)
        ]

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, ErrorRate]:
        whole = error_rate(outputs, self.language, scoring)
        metrics = {f"{self.name}.{whole.name}": whole}
        for value in sorted({out[self.by] for out in outputs}) if self.by else ():
            chosen = [out for out in outputs if out[self.by] == value]
            metrics[f"{self.name}.{whole.name}.{value}"] = error_rate(chosen, self.language, scoring)
        return metrics


class AuditorRecognition(SpeechRecognition):
    """`<recognizer>.<language>.wer`: how well a recogniser, by default the auditor, hears ground-truth speech; every figure it
    gives of ours is to be read beside this.

    Args:
        recognizer: who listens; None takes the system's auditor.
        given: as for SpeechRecognition.
    """

    def __init__(self, shards: str | Sequence[str] | None = None, *, recognizer: Recognizer | None = None, **given: Any) -> None:
        self.recognizer = recognizer or Auditor()
        super().__init__(shards, **{"name": self.recognizer.name, **given})

    def reference(self, item: Item) -> str:
        """The transcript of the whole clip."""
        return item.sample.text

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        waveforms = [item.waveform(TARGET_RATE) for item in items]
        ear = self.recognizer.of(system)
        heard = hear_items(ear, [item.id for item in items], waveforms, TARGET_RATE, self.language)
        return [{**output, "recognizer": ear.stamp} for output in self._outputs(items, heard)]
