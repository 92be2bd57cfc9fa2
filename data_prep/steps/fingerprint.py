"""Audio fingerprints of spectral landmarks: alike for two copies of a sound that differ in level, start or a little noise.

A landmark is a pair of spectral peaks and their distance in time (Wang, "An industrial-strength audio search algorithm", 2003).
Two copies share landmarks at one and the same shift in time; the number of those is the evidence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from bcaudio.audio.io import resample

RATE = 8_000
_FFT, _HOP = 1024, 64  # 128 ms windows every 8 ms: a shift by half a hop changes little
_PEAK_FRAMES, _PEAK_BINS = 16, 12  # a peak is the greatest of so many frames and bins to either side
_FLOOR = 1e-2  # of the clip's greatest magnitude (-40 dB): what lies deeper drowns in noise
_FAN_OUT, _MAX_DISTANCE = 3, 126  # pairs per peak, frames
_BIN_STEP, _FRAME_STEP = 4, 12  # what lies within such a step counts as the same
_NOISE_FLOOR = 1e-7  # magnitudes below are digital silence
_COMMON = 2_000  # a landmark in more clips than this tells nothing (tones, hum) and is not followed

Fingerprint = list[list[int]]


def fingerprint(waveform: np.ndarray, sample_rate: int) -> Fingerprint:
    """float32 [N] -> [landmark, frame] pairs in time order (JSON); empty for silence and for less than 0.13 s."""
    clip = resample(waveform, sample_rate, RATE)
    if len(clip) < _FFT:
        return []
    frames = np.lib.stride_tricks.sliding_window_view(clip, _FFT)[::_HOP] * np.hanning(_FFT).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames, axis=1))[:, 8:448]  # 62 Hz to 3.5 kHz
    around = _greatest(_greatest(magnitude, _PEAK_FRAMES, 0), _PEAK_BINS, 1)
    loud = (magnitude >= _FLOOR * magnitude.max()) & (magnitude > _NOISE_FLOOR)
    times, bins = np.nonzero((magnitude == around) & loud)
    pairs = []
    for i in range(len(times)):
        taken = 0
        for j in range(i + 1, len(times)):
            distance = int(times[j] - times[i])
            if distance > _MAX_DISTANCE or taken == _FAN_OUT:
                break
            if distance > 0:
                first, second = int(bins[i]) // _BIN_STEP, int(bins[j]) // _BIN_STEP
                pairs.append([first << 16 | second << 8 | distance // _FRAME_STEP, int(times[i])])
                taken += 1
    return pairs


def _greatest(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Running maximum over `reach` entries to either side."""
    wide = np.pad(values, [(reach, reach) if i == axis else (0, 0) for i in range(values.ndim)])
    return np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=axis).max(-1)


class FingerprintIndex:
    """Fingerprints under names, searched in time linear in the landmarks they share."""

    def __init__(self) -> None:
        self._places: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._names: list[str] = []
        self._sizes: list[int] = []

    def add(self, name: str, marks: Sequence[Sequence[int]]) -> None:
        """Add one; an empty fingerprint is never found."""
        number = len(self._names)
        self._names.append(name)
        self._sizes.append(len(marks))
        for landmark, frame in marks:
            self._places[landmark].append((number, frame))

    def best(self, marks: Sequence[Sequence[int]], whole: bool) -> tuple[str, float] | None:
        """The entry that shares most with `marks` at one shift (of at most one frame of doubt): its name and the share.

        Args:
            marks: a fingerprint.
            whole: the share is of the larger of the two (copies of each other), else of the entry (it lies inside).
        """
        votes: Counter[tuple[int, int]] = Counter()
        for landmark, frame in marks:
            places = self._places.get(landmark, ())
            if len(places) <= _COMMON:
                for number, other in places:
                    votes[number, frame - other] += 1
        found: dict[int, int] = {}
        for (number, shift), count in votes.items():
            count += max(votes.get((number, shift - 1), 0), votes.get((number, shift + 1), 0))
            found[number] = max(found.get(number, 0), count)
        shares = [
            (min(count / (max(self._sizes[number], len(marks)) if whole else self._sizes[number]), 1.0), -number)
            for number, count in found.items()
        ]
        if not shares:
            return None
        share, number = max(shares)
        return self._names[-number], round(share, 4)
