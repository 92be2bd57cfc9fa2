"""How well sound survives the codes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bcaudio.evaluation.asr import error_rate
from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result
from bcaudio.evaluation.hearing import TARGET_RATE, hear
from bcaudio.metrics.mel_distance import MelDistance

SPEECH_RATE = 24000


class Reconstruction:
    """`reconstruction.mel_mae.levels_<K>`: sound -> the first K codebooks -> mel (arXiv 2502.17239, table 1).

    Where the system has flow decoder, vocoder and auditor, also `reconstruction.<language>.wer.levels_<K>` of the most
    codebooks (table 3).

    Args:
        shards: tar files or globs with audio.
        levels: numbers of codebooks.
        language: keep only this; None keeps all.
        limit: at most so many items.
        corpus, split: filters; None keeps all.
        batch_size: items per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.
        name: the key before `mel_mae`.
        languages_heard: languages whose waveforms the auditor is asked about.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        levels: Sequence[int] = (8, 4, 1),
        language: str | None = None,
        limit: int | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        batch_size: int = 16,
        audio_llm: str | None = None,
        name: str = "reconstruction",
        languages_heard: Sequence[str] = ("en", "zh"),
    ) -> None:
        if not levels or min(levels) < 1:
            raise ValueError(f"Reconstruction: levels {list(levels)} must name numbers of codebooks from 1 up")
        self.shards = as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.levels, self.batch_size, self.audio_llm, self.name = list(levels), batch_size, audio_llm, name
        self.languages_heard = list(languages_heard)

    def items(self) -> list[Item]:
        return self.shards.items(self.name)

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        outputs: list[Output] = []
        clips = [(item.sample, item.waveform(TARGET_RATE)) for item in items]
        speaks = None not in (getattr(system, "flow_decoder", None), getattr(system, "vocoder", None))
        panels: dict[str, dict[str, np.ndarray]] = {}
        for level in self.levels:
            made = system.reconstruct(clips, level, with_waveform=speaks and level == max(self.levels))
            for (sample, _), one in zip(clips, made, strict=True):
                refined, coarse, target = (_checked(mel) for mel in (one.refined_mel, one.coarse_mel, one.target_mel))
                frames = min(len(refined), len(target))
                outputs.append(
                    {
                        "id": sample.key,
                        "language": sample.language,
                        "reference": sample.text,
                        "levels": level,
                        "num_mels": int(target.shape[1]),
                        "frames": frames,
                        "absolute_error": _distance(refined, target, frames),
                        "coarse_absolute_error": _distance(coarse, target, frames),
                    }
                )
                shown = panels.setdefault(sample.key, {"original": target})
                shown[f"{level} codebooks"] = refined
            self._listen(system, [one.waveform for one in made], outputs[-len(made) :])
        for key, shown in panels.items():
            examples.mels(key, self.name, shown)
        return outputs

    def _listen(self, system: Any, waveforms: Sequence[np.ndarray | None], outputs: Sequence[Output]) -> None:
        """Adds what the auditor hears to the outputs that have a waveform in a language it knows."""
        auditor = getattr(system, "auditor", None)
        chosen = [
            (out, wave)
            for out, wave in zip(outputs, waveforms, strict=True)
            if auditor is not None and wave is not None and out["language"] in self.languages_heard
        ]
        if chosen:
            for (out, _), text in zip(chosen, hear(auditor, [wave for _, wave in chosen], SPEECH_RATE), strict=True):
                out["hypothesis"] = text

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        results: dict[str, Result] = {}
        for level in self.levels:
            chosen = [out for out in outputs if out["levels"] == level]
            for key, field in (("mel_mae", "absolute_error"), ("coarse_mel_mae", "coarse_absolute_error")):
                metric = MelDistance()
                for out in chosen:
                    metric.add(out[field], out["frames"], out["num_mels"])
                results[f"{self.name}.{key}.levels_{level}"] = {**result(metric), "clips": len(chosen)}
            for language in sorted({out["language"] for out in chosen if "hypothesis" in out}):
                rate, scored = error_rate(
                    [out for out in chosen if out["language"] == language and "hypothesis" in out], language
                )
                results[f"{self.name}.{language}.{rate}.levels_{level}"] = scored
        return results


def _checked(mel: np.ndarray) -> np.ndarray:
    if mel.ndim != 2:
        raise ValueError(f"Reconstruction: a mel has shape {mel.shape}, expected [F, n_mels]")
    return mel.astype(np.float64)


def _distance(prediction: np.ndarray, target: np.ndarray, frames: int) -> float:
    return float(np.abs(prediction[:frames] - target[:frames]).sum())
