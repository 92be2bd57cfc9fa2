"""Level and clipping: what is too loud for its own file or too quiet to hear is dropped; the rest may be brought to one level."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from data_prep.utterance import Clip, Drops

PEAK = 0.99  # a gain never lifts a sample beyond it


class Loudness:
    """Checks the level of each clip and, if asked, changes it. Text-only clips pass.

    Clipped samples are those at full scale in runs of at least two: one sample at the top is a peak, a flat top is clipping. Full
    scale is the clip's own peak (within 0.01 %), if that is at least `full_scale`. Judge a recording at its own rate, before
    resampling and lossy coding, which make flat tops wavy.

    Drops: `clipped`, `too quiet`. Adds `level_dbfs` (root mean square, as it was) and `clipped_share`.

    Args:
        max_clipped_share: of the samples.
        full_scale: magnitude from which a peak counts as the end of the scale.
        min_dbfs: clips below are dropped.
        target_dbfs: root mean square after the step, less where a peak would pass 0.99; None leaves the level.

    Raises:
        ValueError: a share outside [0, 1], or a target above 0 dBFS.
    """

    def __init__(
        self,
        max_clipped_share: float = 0.001,
        full_scale: float = 0.98,
        min_dbfs: float = -60.0,
        target_dbfs: float | None = None,
    ) -> None:
        if not 0 <= max_clipped_share <= 1:
            raise ValueError(f"Loudness: max_clipped_share is {max_clipped_share}; it must lie in [0, 1]")
        if target_dbfs is not None and target_dbfs > 0:
            raise ValueError(f"Loudness: target_dbfs is {target_dbfs}; full scale is 0, so give 0 or less, e.g. -23")
        self.max_clipped_share, self.full_scale = max_clipped_share, full_scale
        self.min_dbfs, self.target_dbfs = min_dbfs, target_dbfs

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if not len(clip.waveform):
                yield clip
                continue
            level = level_dbfs(clip.waveform)
            share = clipped_share(clip.waveform, self.full_scale)
            if share > self.max_clipped_share:
                drops.add(clip, self, "clipped", round(share, 5))
            elif level < self.min_dbfs:
                drops.add(clip, self, "too quiet", level)
            else:
                measures = {**clip.measures, "level_dbfs": level, "clipped_share": round(share, 6)}
                yield replace(clip, waveform=self._levelled(clip.waveform, level), measures=measures)

    def _levelled(self, waveform: np.ndarray, level: float) -> np.ndarray:
        if self.target_dbfs is None:
            return waveform
        gain = min(10 ** ((self.target_dbfs - level) / 20), PEAK / float(np.abs(waveform).max()))
        return (waveform * np.float32(gain)).astype(np.float32)


def level_dbfs(waveform: np.ndarray) -> float:
    """Root mean square of float [N] in dBFS, rounded to 0.01; -120 for silence. A full-scale sine has -3.01."""
    power = float(np.mean(np.square(waveform, dtype=np.float64)))
    return round(10 * math.log10(power), 2) if power > 1e-12 else -120.0


def clipped_share(waveform: np.ndarray, full_scale: float) -> float:
    """Share of the samples that lie at full scale beside another one of the same sign that does."""
    peak = float(np.abs(waveform).max())
    if peak < full_scale:
        return 0.0
    high, low = waveform >= 0.9999 * peak, waveform <= -0.9999 * peak
    flat = np.zeros(len(waveform), bool)
    for side in (high, low):
        pairs = side[1:] & side[:-1]
        flat[1:] |= pairs
        flat[:-1] |= pairs
    return float(flat.mean())
