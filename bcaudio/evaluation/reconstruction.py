"""How well sound survives the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bcaudio.evaluation.asr import error_rate
from bcaudio.evaluation.benchmark import Corpus, Examples, Item, Output, Scoring, corpus_of
from bcaudio.evaluation.recognizers import Auditor, Recognizer, hear_items
from bcaudio.metrics.counting import CountingMetric
from bcaudio.metrics.error_rate import ErrorRate
from bcaudio.metrics.mel_distance import MelDistance

SPEECH_RATE = 24000


class Reconstruction:
    """`reconstruction.mel_mae.levels_<K>`: sound -> the first K codebooks -> mel (arXiv 2502.17239, table 1).

    Where the system has flow decoder and vocoder, and there is a recogniser, also `reconstruction.<language>.wer.levels_<K>` of
    the sound that the most codebooks give (table 3), against the texts of the items that have one.

    Args:
        shards: tar files or globs; or
        data: a corpus of `bcaudio.evaluation.corpora`.
        levels: numbers of codebooks.
        language: keep only this; None keeps all.
        limit: at most so many items.
        corpus, split: filters of the shards; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before `mel_mae`.
        languages_heard: languages whose waveforms the recogniser is asked about.
        recognizer: who listens; None takes the system's auditor, where it has one.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        levels: Sequence[int] = (8, 4, 1),
        *,
        data: Corpus | None = None,
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        name: str = "reconstruction",
        languages_heard: Sequence[str] = ("en", "zh"),
        recognizer: Recognizer | None = None,
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"Reconstruction: levels {list(levels)} must name numbers of codebooks from 1 up")
        self.corpus = corpus_of(shards, data, limit, language=language, corpus=corpus, split=split)
        self.levels, self.batch_size, self.audio_llm, self.name = list(levels), batch_size, audio_llm, name
        self.languages_heard, self.recognizer = list(languages_heard), recognizer

    def items(self) -> list[Item]:
        return self.corpus.items(self.name)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        speaks = None not in (getattr(system, "flow_decoder", None), getattr(system, "vocoder", None))
        panels: dict[str, dict[str, np.ndarray]] = {}
        for level in self.levels:
            made = system.reconstruct(items, level, with_waveform=speaks and level == max(self.levels))
            for item, one in zip(items, made, strict=True):
                refined, coarse, target = (_checked(mel) for mel in (one.refined_mel, one.coarse_mel, one.target_mel))
                frames = min(len(refined), len(target))
                outputs.append(
                    {
                        "id": item.id,
                        "language": item.sample.language,
                        "reference": item.sample.text,
                        "mode": f"levels_{level}",
                        "levels": level,
                        "num_mels": int(target.shape[1]),
                        "frames": frames,
                        "absolute_error": _distance(refined, target, frames),
                        "coarse_absolute_error": _distance(coarse, target, frames),
                    }
                )
                shown = panels.setdefault(item.id, {"original": target})
                shown[f"{level} codebooks"] = refined
            self._listen(system, [one.waveform for one in made], outputs[-len(made) :], examples)
        for key, shown in panels.items():
            examples.mels(key, self.name, shown)
        return outputs

    def _listen(self, system: Any, waveforms: Sequence[np.ndarray | None], outputs: Sequence[Output], examples: Examples) -> None:
        """Saves the sounds there are, and adds what is heard in those with a text in a language that is listened to."""
        heard: dict[str, list[tuple[Output, np.ndarray]]] = {}
        for out, wave in zip(outputs, waveforms, strict=True):
            if wave is None or not len(wave):
                continue
            out["audio"] = examples.save(out["id"], out["mode"], wave, SPEECH_RATE)
            if out["language"] in self.languages_heard and ErrorRate(out["language"]).units(out["reference"]):
                heard.setdefault(out["language"], []).append((out, wave))
        if self.recognizer is None and getattr(system, "auditor", None) is None:
            return
        ear = (self.recognizer or Auditor()).of(system) if heard else None
        for language, chosen in heard.items():
            ids, waves = [out["id"] for out, _ in chosen], [wave for _, wave in chosen]
            for (out, _), text in zip(chosen, hear_items(ear, ids, waves, SPEECH_RATE, language), strict=True):
                out |= {"hypothesis": text, "recognizer": ear.stamp}

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> dict[str, CountingMetric]:
        metrics: dict[str, CountingMetric] = {}
        for level in self.levels:
            chosen = [out for out in outputs if out["levels"] == level]
            for key, field in (("mel_mae", "absolute_error"), ("coarse_mel_mae", "coarse_absolute_error")):
                metric = MelDistance()
                for out in chosen:
                    metric.add(out[field], out["frames"], out["num_mels"], out["id"])
                metrics[f"{self.name}.{key}.levels_{level}"] = metric
            for language in sorted({out["language"] for out in chosen if "hypothesis" in out}):
                heard = [out for out in chosen if out["language"] == language and "hypothesis" in out]
                metric = error_rate(heard, language, scoring)
                metrics[f"{self.name}.{language}.{metric.name}.levels_{level}"] = metric
        return metrics


def _checked(mel: np.ndarray) -> np.ndarray:
    if mel.ndim != 2:
        raise ValueError(f"Reconstruction: a mel has shape {mel.shape}, expected [F, n_mels]")
    return mel.astype(np.float64)


def _distance(prediction: np.ndarray, target: np.ndarray, frames: int) -> float:
    return float(np.abs(prediction[:frames] - target[:frames]).sum())
