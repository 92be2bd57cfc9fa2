"""Intelligibility of synthesised speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bcaudio.evaluation.asr import error_rate
from bcaudio.evaluation.benchmark import Examples, Item, NotRunError, Output, Result, as_shards
from bcaudio.evaluation.hearing import TARGET_RATE, SphinxEar, auditor_of, hear

SPEECH_RATE = 24000


class SpeechOutput:
    """`tts.<language>.wer`: the system speaks a text and the auditor writes what it hears (arXiv 2502.17239, section 4, ASR-
    WER of TTS).

    Beside it `tts.<language>.ground_truth_wer`, the auditor on the corpus' audio of the same items, and for en the same two
    figures by
    PocketSphinx (`pocketsphinx_wer`, `ground_truth_pocketsphinx_wer`), which has never seen this project's data.

    Args:
        shards: tar files or globs with audio.
        language: of the texts.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        second_opinion: ask PocketSphinx too (en only).
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        language: str,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        second_opinion: bool = True,
    ) -> None:
        self.shards = as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.language, self.batch_size, self.audio_llm = language, batch_size, audio_llm
        self.second_opinion = second_opinion and language == "en"
        self._sphinx: SphinxEar | str | None = None

    def items(self) -> list[Item]:
        return self.shards.items(f"tts.{self.language}")

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        auditor = auditor_of(system)
        answers = system.speak([item.sample for item in items], "tts")
        ours = hear(auditor, [answer.waveform for answer in answers], SPEECH_RATE)
        truth = [item.waveform(TARGET_RATE) for item in items]
        theirs = hear(auditor, truth, TARGET_RATE)
        outputs = []
        for item, answer, wave, heard, heard_truth in zip(items, answers, truth, ours, theirs, strict=True):
            sample = item.sample
            reference = sample.spans[0].text if len(sample.spans) == 1 else sample.text
            output = {
                "id": sample.key,
                "language": self.language,
                "reference": reference,
                "hypothesis": heard,
                "ground_truth_hypothesis": heard_truth,
                "duration_s": round(len(answer.waveform) / SPEECH_RATE, 3),
                "ground_truth_duration_s": round(len(wave) / TARGET_RATE, 3),
            }
            outputs.append(output | self._second_opinion(answer.waveform, wave))
            players = {"spoken by the system": (answer.waveform, SPEECH_RATE), "corpus": (wave, TARGET_RATE)}
            examples.audio(sample.key, f"said aloud ({self.language})", reference, heard, reference, players)
        return outputs

    def _second_opinion(self, ours: Any, truth: Any) -> Output:
        if not self.second_opinion:
            return {}
        if self._sphinx is None:
            try:
                self._sphinx = SphinxEar()
            except NotRunError as error:
                self._sphinx = str(error)
        if isinstance(self._sphinx, str):
            return {"pocketsphinx_absent": self._sphinx}
        return {
            "pocketsphinx_hypothesis": self._sphinx.hear(ours, SPEECH_RATE),
            "ground_truth_pocketsphinx_hypothesis": self._sphinx.hear(truth, TARGET_RATE),
        }

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        name = f"tts.{self.language}"
        results: dict[str, Result] = {}
        for field in ("", "ground_truth_", "pocketsphinx_", "ground_truth_pocketsphinx_"):
            if "pocketsphinx" in field and not self.second_opinion:
                continue
            absent = next((out["pocketsphinx_absent"] for out in outputs if "pocketsphinx_absent" in out), None)
            if "pocketsphinx" in field and absent:
                results[f"{name}.{field}wer"] = {"value": None, "note": f"not run: {absent}"}
                continue
            rate, scored = error_rate(outputs, self.language, f"{field}hypothesis")
            results[f"{name}.{field}{rate}"] = scored
        return results
