"""Intelligibility of synthesised speech."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bcaudio.audio.io import read_audio
from bcaudio.evaluation.asr import error_rate, of_language, with_reference
from bcaudio.evaluation.benchmark import Absent, Corpus, Examples, Item, ItemError, NotRunError, Output, Scoring, corpus_of
from bcaudio.evaluation.hearing import TARGET_RATE
from bcaudio.evaluation.quality import DNSMOS, SpeakerSimilarity
from bcaudio.evaluation.recognizers import Auditor, PocketSphinx, Recognizer, hear_items
from bcaudio.metrics.counting import CountingMetric
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.metrics.mean import Mean

SPEECH_RATE = 24000


class SpeechOutput:
    """`tts.<language>.wer`: the system speaks a text and a recogniser writes what it hears (arXiv 2502.17239, section 4, ASR-WER
    of TTS).

    Beside it `tts.<language>.ground_truth_wer`, the recogniser on the corpus' audio of the same items, where it has some; and the
    same two figures of each second opinion, such as `pocketsphinx_wer` and `ground_truth_pocketsphinx_wer`.

    With `quality` also `tts.<language>.dnsmos` and, where items name a `prompt_audio`, `tts.<language>.speaker_similarity` to it.

    Args:
        shards: tar files or globs; or
        data: a corpus of `bcaudio.evaluation.corpora`: a Seed-TTS-eval list or a plain list of texts.
        language: of the texts.
        limit: at most so many items.
        corpus, split: filters of the shards; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        recognizer: who listens; None takes the system's auditor.
        second_opinions: who else listens; None asks PocketSphinx about shards in en, whose numbers its grammar knows.
        quality: judge how it sounds, too; None does so for `data`.
        name: the key before the language.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        *,
        language: str,
        data: Corpus | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        recognizer: Recognizer | None = None,
        second_opinions: Sequence[Recognizer] | None = None,
        quality: bool | None = None,
        name: str = "tts",
    ) -> None:
        ErrorRate(language)  # an unknown language is said before anything is asked
        kept = None if language == "mixed" else language
        self.corpus = corpus_of(shards, data, limit, language=kept, corpus=corpus, split=split)
        self.language, self.batch_size, self.audio_llm = language, batch_size, audio_llm
        self.name = f"{name}.{language}"
        self.recognizer = recognizer or Auditor()
        if second_opinions is None:
            second_opinions = [PocketSphinx()] if language == "en" and data is None else []
        self.second_opinions = list(second_opinions)
        self.quality = data is not None if quality is None else quality
        self._judges: dict[str, Any] = {}
        names = [one.name for one in self.second_opinions]
        if len(set(names)) < len(names):
            raise ValueError(f"{self.name}: second_opinions are named {names}; give each a name of its own")

    def reference(self, item: Item) -> str:
        """What is to be said."""
        return item.sample.spans[0].text if len(item.sample.spans) == 1 else item.sample.text

    def items(self) -> list[Item]:
        items = of_language(self.corpus.items(self.name), self.language, self.name)
        return with_reference(items, self.language, self.reference)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        ear = self.recognizer.of(system)
        truths = [None if item.audio is None else item.waveform(TARGET_RATE) for item in items]
        answers = [answer.waveform for answer in system.speak(items, "tts")]
        outputs = [self._output(*one, examples) for one in zip(items, answers, truths, strict=True)]
        self._listen(ear, "", outputs, answers, truths)
        for opinion in self.second_opinions:
            try:
                self._listen(opinion.of(system), f"{opinion.name}_", outputs, answers, truths)
            except NotRunError as error:
                outputs = [{**output, f"{opinion.name}_absent": str(error)} for output in outputs]
        for item, output, answer, truth in zip(items, outputs, answers, truths, strict=True):
            output |= self._quality(item, answer) if self.quality else {}
            players = {"spoken by the system": (answer, SPEECH_RATE)} | (
                {} if truth is None else {"corpus": (truth, TARGET_RATE)}
            )
            said, text = f"said aloud ({self.language})", output["reference"]
            examples.audio(output["id"], said, text, output["hypothesis"], text, players)
        return outputs

    def _output(self, item: Item, answer: np.ndarray, truth: np.ndarray | None, examples: Examples) -> Output:
        """What is known before anybody listens."""
        output: Output = {"id": item.id, "language": self.language, "reference": self.reference(item)}
        output["duration_s"] = round(len(answer) / SPEECH_RATE, 3)
        if truth is not None:
            output["ground_truth_duration_s"] = round(len(truth) / TARGET_RATE, 3)
        if len(answer):
            output["audio"] = examples.save(item.id, "tts", answer, SPEECH_RATE)
        return output

    def _listen(
        self,
        ear: Recognizer,
        name: str,
        outputs: Sequence[Output],
        answers: Sequence[np.ndarray],
        truths: Sequence[np.ndarray | None],
    ) -> None:
        """Adds `<name>hypothesis`, `ground_truth_<name>hypothesis` and the stamps of the ear to the outputs."""
        heard = hear_items(ear, [output["id"] for output in outputs], answers, SPEECH_RATE, self.language)
        for output, text in zip(outputs, heard, strict=True):
            output |= {f"{name}hypothesis": text, f"{name}recognizer": ear.stamp}
        real = [(output, truth) for output, truth in zip(outputs, truths, strict=True) if truth is not None]
        ids, waveforms = [output["id"] for output, _ in real], [truth for _, truth in real]
        heard = hear_items(ear, ids, waveforms, TARGET_RATE, self.language)
        for (output, _), text in zip(real, heard, strict=True):
            output |= {f"ground_truth_{name}hypothesis": text, f"ground_truth_{name}recognizer": ear.stamp}

    def _quality(self, item: Item, answer: np.ndarray) -> Output:
        """What the networks of `bcaudio.evaluation.quality` say of a sound, or why they are not asked; nothing of no sound."""
        if not len(answer):
            return {}
        found: Output = {}
        for judge in (DNSMOS, SpeakerSimilarity) if "prompt_audio" in item.fields else (DNSMOS,):
            try:
                if judge.name not in self._judges:
                    self._judges[judge.name] = judge()
                prompt = () if judge is DNSMOS else (_prompt(item), TARGET_RATE)
                found[judge.name] = self._judges[judge.name].score(answer, SPEECH_RATE, *prompt)
            except NotRunError as error:
                found[f"{judge.name}_absent"] = str(error)
        return found

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> Mapping[str, CountingMetric | Absent]:
        metrics: dict[str, CountingMetric | Absent] = {}
        for ear in ("", *(f"{opinion.name}_" for opinion in self.second_opinions)):
            absent = next((out[f"{ear}absent"] for out in outputs if f"{ear}absent" in out), None)
            for field in (ear, f"ground_truth_{ear}"):
                heard = [out for out in outputs if f"{field}hypothesis" in out]
                if absent is not None:
                    metrics[f"{self.name}.{field}{ErrorRate(self.language).name}"] = Absent(f"not run: {absent}")
                elif heard:
                    metric = error_rate(heard, self.language, scoring, f"{field}hypothesis")
                    metrics[f"{self.name}.{field}{metric.name}"] = metric
        for judge in (DNSMOS, SpeakerSimilarity):
            known = [out for out in outputs if judge.name in out]
            absent = next((out[key] for out in outputs if (key := f"{judge.name}_absent") in out), None)
            if absent is not None:
                metrics[f"{self.name}.{judge.name}"] = Absent(f"not run: {absent}")
            elif known:
                mean = Mean(judge.name, higher_is_better=judge.higher_is_better)
                mean.update([out[judge.name] for out in known], [out["id"] for out in known])
                metrics[f"{self.name}.{judge.name}"] = mean
        return metrics


def _prompt(item: Item) -> np.ndarray:
    """The voice to speak in, float32 [N] at 16 kHz; ItemError where it cannot be read."""
    try:
        return read_audio(item.fields["prompt_audio"], TARGET_RATE)
    except (OSError, ValueError) as error:
        raise ItemError(item.id, f"its prompt cannot be read: {error}") from error
