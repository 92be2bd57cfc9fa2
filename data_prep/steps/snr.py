"""Signal to noise, estimated from the clip alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data_prep.utterance import Clip, Drops

_FRAME_S = 0.02
_NOISE_SHARE = 0.05  # of the frames, the quietest: pauses between words
MAX_DB = 80.0


class EstimateSnr:
    """Adds the measure `snr_db`; text-only clips pass.

    Drops: `low snr`.

    Args:
        min_snr_db: clips below are dropped; None drops none.
    """

    def __init__(self, min_snr_db: float | None = None) -> None:
        self.min_snr_db = min_snr_db

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if not len(clip.waveform):
                yield clip
                continue
            snr_db = estimate_snr(clip.waveform, clip.sample_rate)
            if self.min_snr_db is not None and snr_db < self.min_snr_db:
                drops.add(clip, self, "low snr", snr_db)
            else:
                yield replace(clip, measures={**clip.measures, "snr_db": snr_db})


def estimate_snr(waveform: np.ndarray, sample_rate: int) -> float:
    """dB, rounded to 0.01, between -20 and 80: the mean power less that of the noise, over that of the noise.

    The noise is what the quietest 5 % of 20 ms frames hold: it needs a pause somewhere, and noise that does not change.
    """
    size = max(1, round(_FRAME_S * sample_rate))
    count = max(1, len(waveform) // size)
    power = np.square(waveform[: count * size], dtype=np.float64).reshape(count, -1).mean(1)
    quiet = np.sort(power)[: max(1, round(_NOISE_SHARE * count))]
    noise, signal = float(quiet.mean()), float(power.mean())
    if noise <= 1e-12 or signal <= 1e-12:
        return MAX_DB if signal > 1e-12 else -20.0
    ratio = max(signal / noise - 1, 0.01)
    return round(min(10 * math.log10(ratio), MAX_DB), 2)
