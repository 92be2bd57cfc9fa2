"""Questions with short answers: read or heard, answered in text or in speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from bcaudio.data.schema import Sample
from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result
from bcaudio.evaluation.hearing import auditor_of, hear
from bcaudio.metrics.accuracy import Accuracy
from bcaudio.text.normalize import NORMALIZER, units

Mode = Literal["text", "speech_to_text", "speech_to_speech"]
MODES = ("text", "speech_to_text", "speech_to_speech")
SPEECH_RATE = 24000


def same_units(hypothesis: str, reference: str, language: str) -> bool:
    """Whether two texts are equal after normalisation; ValueError for a reference that is empty then."""
    wanted = units(reference, language)
    if not wanted:
        raise ValueError(f"reference {reference!r} is empty after normalisation ({NORMALIZER}, {language})")
    return units(hypothesis, language) == wanted


def answer_of(sample: Sample) -> str:
    """What the answer should be: the `answer` field, else the assistant's words; ValueError naming the sample without either."""
    spoken = " ".join(span.text for span in sample.spans if span.role == "assistant")
    answer = sample.answer or spoken
    if not answer:
        raise ValueError(
            f"{sample.key}: has neither an answer nor an assistant's span; choose another corpus for question answering"
        )
    return answer


def exact_matches(outputs: Sequence[Output], hypothesis: str = "hypothesis") -> Result:
    """Share of outputs whose field equals the reference, with counts per language."""
    metrics: dict[str, Accuracy] = {}
    total = Accuracy()
    for out in outputs:
        right = [same_units(out[hypothesis], out["reference"], out["language"])]
        total.update(right)
        metrics.setdefault(out["language"], Accuracy()).update(right)
    by_language = {
        f"{name}_{language}": count for language, metric in sorted(metrics.items()) for name, count in metric.counts().items()
    }
    return {**result(total), **by_language, "normalizer": NORMALIZER}


class QuestionAnswering:
    """`aqa.<mode>.accuracy`, exact match after normalisation (arXiv 2502.17239, section 4, OpenAudioBench S->T and S->S).

    - `text`: the question's text is read and the answer written: the ceiling that the text LLM sets.
    - `speech_to_text`: the question is heard and the answer written.
    - `speech_to_speech`: the question is heard and the answer spoken; the auditor listens to the waveform.
      `aqa.speech_to_speech.text_accuracy` is of the text that goes with that speech.

    Args:
        shards: tar files or globs with codes (`text` needs none).
        modes: which of the three; a spoken answer needs `dialogue` samples.
        language: keep only this; None keeps all.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        modes: Sequence[Mode] = ("text", "speech_to_text"),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 32,
        audio_llm: str | None = None,
    ) -> None:
        unknown = sorted(set(modes) - set(MODES))
        if unknown or not modes:
            raise ValueError(f"QuestionAnswering: modes {list(modes)} must be some of {list(MODES)}")
        self.shards = as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.modes, self.batch_size, self.audio_llm = list(modes), batch_size, audio_llm

    def items(self) -> list[Item]:
        return self.shards.items("aqa")

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        samples = [item.sample for item in items]
        outputs: list[Output] = []
        for mode in self.modes:
            if mode == "speech_to_speech":
                outputs += self._spoken(system, samples, examples)
                continue
            ask = system.answer_text_from_text if mode == "text" else system.answer_text
            outputs += [self._output(sample, mode, text) for sample, text in zip(samples, ask(samples, "aqa"), strict=True)]
        return outputs

    def _spoken(self, system: Any, samples: Sequence[Sample], examples: Examples) -> list[Output]:
        auditor = auditor_of(system)
        answers = system.speak(list(samples), "dialogue")
        heard = hear(auditor, [answer.waveform for answer in answers], SPEECH_RATE)
        outputs = []
        for sample, answer, text in zip(samples, answers, heard, strict=True):
            outputs.append({**self._output(sample, "speech_to_speech", text), "text": answer.text})
            players = {"answer": (answer.waveform, SPEECH_RATE)}
            examples.audio(sample.key, f"question: {sample.spans[0].text}", answer.text, text, answer_of(sample), players)
        return outputs

    @staticmethod
    def _output(sample: Sample, mode: str, text: str) -> Output:
        return {"id": sample.key, "language": sample.language, "mode": mode, "reference": answer_of(sample), "hypothesis": text}

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        results = {}
        for mode in self.modes:
            chosen = [out for out in outputs if out["mode"] == mode]
            results[f"aqa.{mode}.accuracy"] = exact_matches(chosen)
            if mode == "speech_to_speech":
                results[f"aqa.{mode}.text_accuracy"] = exact_matches(chosen, "text")
        return results
