"""Brings all clips to one sample rate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from bcaudio.audio import io
from data_prep.utterance import Clip, Drops


class Resample:
    """Clips at one rate (soxr, high quality); times of words and spans stay. Text-only clips pass.

    Drops: `low sample rate`, `empty`, `not finite`.

    Args:
        sample_rate: Hz.
        min_sample_rate: recordings below are dropped: a higher rate would only pretend to hold more.

    Raises:
        ValueError: a rate is not positive.
    """

    def __init__(self, sample_rate: int = 24_000, min_sample_rate: int = 1) -> None:
        if sample_rate < 1 or min_sample_rate < 1:
            raise ValueError(f"Resample: rates are {sample_rate} and {min_sample_rate} Hz; both must be positive")
        self.sample_rate, self.min_sample_rate = sample_rate, min_sample_rate

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if not len(clip.waveform):
                if clip.utterance.audio is None:
                    yield clip
                else:
                    drops.add(clip, self, "empty", clip.utterance.audio)
            elif clip.sample_rate < self.min_sample_rate:
                drops.add(clip, self, "low sample rate", clip.sample_rate)
            elif not np.isfinite(clip.waveform).all():
                drops.add(clip, self, "not finite", int((~np.isfinite(clip.waveform)).sum()))
            else:
                waveform = io.resample(clip.waveform, clip.sample_rate, self.sample_rate)
                yield replace(clip, waveform=waveform, sample_rate=self.sample_rate)
