"""Speaker consistency: one clip, one speaker (paper section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from bcaudio.audio.io import resample
from data_prep.utterance import Clip, Drops, MissingExtra

RATE = 16_000


class SpeakerEmbedder(Protocol):
    """Turns a voice into a direction; `same_speaker` is the cosine from which two clips are taken to be of one speaker."""

    same_speaker: float

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """float32 [N] -> float [D] of length 1, a pure function of the waveform; voices are compared by the cosine."""
        ...


class MelStatistics:
    """No trained model: mean and spread of cepstral coefficients over the louder frames.

    It tells apart voices of different colour
    (high and low, different synthesisers), not two like speakers; use `Resemblyzer` for real crawled sound.

    Args:
        num_coefficients: of the cepstrum, without the level.
    """

    same_speaker = 0.92  # espeak-ng timbres: sentences of one have at least 0.94, of two mostly under 0.9

    def __init__(self, num_coefficients: int = 20) -> None:
        self.num_coefficients = num_coefficients
        self._mel: Any = None

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        import torch

        from bcaudio.audio.mel import slaney_mel_filters

        clip = torch.from_numpy(np.pad(resample(waveform, sample_rate, RATE), (0, 400)))
        if self._mel is None:
            self._mel = slaney_mel_filters(RATE, 400, 40, 60.0, 7600.0), torch.hann_window(400)
        filters, window = self._mel
        power = torch.fft.rfft(clip.unfold(0, 400, 160) * window).abs().square() @ filters
        level = power.sum(1)
        loud = power[level > 0.01 * level.max()]
        if not len(loud):
            return np.eye(1, 2 * self.num_coefficients)[0]
        log_mel = loud.clamp(min=1e-10).log().double().numpy()
        k, n = np.arange(1, self.num_coefficients + 1)[:, None], np.arange(40)[None]
        cepstrum = log_mel @ (np.cos(np.pi * k * (n + 0.5) / 40) / np.sqrt(20)).T
        mean, spread = cepstrum.mean(0), cepstrum.std(0)
        vector = np.concatenate([mean, spread - spread.mean()])
        return vector / max(float(np.linalg.norm(vector)), 1e-9)


class Resemblyzer:
    """The GE2E speaker encoder of Resemblyzer (Apache-2.0), 256 numbers. Needs `pip install bcaudio[speaker]`."""

    same_speaker = 0.75

    def __init__(self) -> None:
        self._encoder: Any = None

    def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        if self._encoder is None:
            try:
                from resemblyzer import VoiceEncoder
            except ImportError as error:
                raise MissingExtra("Resemblyzer: resemblyzer is not installed; pip install bcaudio[speaker]") from error
            self._encoder = VoiceEncoder("cpu", verbose=False)
        return self._encoder.embed_utterance(resample(waveform, sample_rate, RATE))


class OneSpeaker:
    """Drops clips in which the voice changes; text-only clips and those shorter than two windows pass.

    Drops: `several speakers`. Adds the measure `speaker_similarity`: the least cosine between two windows.

    Args:
        embedder: `MelStatistics()` unless given.
        window_s: length of a window; they follow each other.
        min_similarity: clips below are dropped; `same_speaker` of the embedder less 0.05 unless given: windows are short.
    """

    def __init__(
        self, embedder: SpeakerEmbedder | None = None, window_s: float = 2.0, min_similarity: float | None = None
    ) -> None:
        self.embedder = MelStatistics() if embedder is None else embedder
        least = self.embedder.same_speaker - 0.05 if min_similarity is None else min_similarity
        if window_s <= 0 or not -1 <= least <= 1:
            raise ValueError(f"OneSpeaker: window_s {window_s} must be positive and min_similarity {least} in [-1, 1]")
        self.window_s, self.min_similarity = window_s, least

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            count = int(clip.duration_s / self.window_s)
            if count < 2:
                yield clip
                continue
            windows = np.array_split(clip.waveform, count)
            vectors = np.stack([self.embedder.embed(window, clip.sample_rate) for window in windows])
            similarity = round(float((vectors @ vectors.T).min()), 4)
            if similarity < self.min_similarity:
                drops.add(clip, self, "several speakers", similarity)
            else:
                yield replace(clip, measures={**clip.measures, "speaker_similarity": similarity})
