"""Audio fingerprints of spectral landmarks: alike for two copies of a sound that differ in level, start or a little noise.

A landmark is a pair of spectral peaks and their distance in time (Wang, "An industrial-strength audio search algorithm", 2003).
Two copies share landmarks at one and the same shift in time; the number of those is the evidence (`share`). That is counted for
few pairs of clips only, those whose pairs of landmarks agree somewhere (`hashes`), so that a search stays linear in the corpus.
"""

from __future__ import annotations

import base64
import tempfile
from array import array
from collections import Counter

import numpy as np

from bcaudio.audio.io import resample

NAME = "landmarks-1"  # change it whenever a fingerprint changes: stored ones are told apart by it
RATE = 8_000
_FFT, _HOP = 1024, 64  # 128 ms windows every 8 ms: a shift by half a hop changes little
_PEAK_FRAMES, _PEAK_BINS = 16, 12  # a peak is the greatest of so many frames and bins to either side
_FLOOR = 1e-2  # of the clip's greatest magnitude (-40 dB): what lies deeper drowns in noise
_FAN_OUT, _MAX_DISTANCE = 3, 126  # pairs per peak, frames
_BIN_STEP, _FRAME_STEP = 4, 12  # what lies within such a step counts as the same
_NOISE_FLOOR = 1e-7  # magnitudes below are digital silence
_REPEATS = 64  # of one landmark in a clip count; a steady tone has no more to tell
_PART_FRAMES, _PART_LANDMARKS, _PART_SHARE = 62, 20, 0.1  # half a second of a copy, if it has landmarks, shares some
_BANDS = 32  # of a clip's hashes, the least of each is kept to find copies by
_EMPTY = np.uint32(0xFFFFFFFF)
_CANDIDATES = 8  # compared per clip: those that agree most
_SLICE = 1 << 16  # clips whose candidates are sorted at a time
_OWNERS = 32  # of one hash, followed in a search


def fingerprint(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [N] -> int32 [M, 2] of (landmark, frame) in time order; M is 0 for silence and for less than 0.13 s."""
    clip = resample(waveform, sample_rate, RATE)
    if len(clip) < _FFT:
        return np.zeros((0, 2), np.int32)
    frames = np.lib.stride_tricks.sliding_window_view(clip, _FFT)[::_HOP] * np.hanning(_FFT).astype(np.float32)
    magnitude = np.abs(np.fft.rfft(frames, axis=1))[:, 8:448]  # 62 Hz to 3.5 kHz
    around = _greatest(_greatest(magnitude, _PEAK_FRAMES, 0), _PEAK_BINS, 1)
    loud = (magnitude >= _FLOOR * magnitude.max()) & (magnitude > _NOISE_FLOOR)
    times, bins = np.nonzero((magnitude == around) & loud)
    pairs: list[tuple[int, int]] = []
    repeats: Counter[int] = Counter()
    for i in range(len(times)):
        taken = 0
        for j in range(i + 1, len(times)):
            distance = int(times[j] - times[i])
            if distance > _MAX_DISTANCE or taken == _FAN_OUT:
                break
            if distance > 0:
                first, second = int(bins[i]) // _BIN_STEP, int(bins[j]) // _BIN_STEP
                landmark = first << 16 | second << 8 | distance // _FRAME_STEP
                repeats[landmark] += 1
                if repeats[landmark] <= _REPEATS:
                    pairs.append((landmark, int(times[i])))
                taken += 1
    return np.array(pairs, np.int32).reshape(-1, 2)


def _greatest(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Running maximum over `reach` entries to either side."""
    wide = np.pad(values, [(reach, reach) if i == axis else (0, 0) for i in range(values.ndim)])
    return np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=axis).max(-1)


def pack(marks: np.ndarray) -> str:
    """A fingerprint as text for JSON, 11 characters per landmark; "" for an empty one."""
    return base64.b64encode(marks.astype("<i4").tobytes()).decode()


def unpack(text: str) -> np.ndarray:
    """The inverse of `pack`."""
    return np.frombuffer(base64.b64decode(text), "<i4").reshape(-1, 2)


def hashes(marks: np.ndarray) -> np.ndarray:
    """uint64 [H], sorted: a hash of every two landmarks in a row that begin at one peak, each once.

    Three peaks together occur by chance far more rarely than a landmark, so a hash belongs to few clips of a large corpus.
    """
    together = (marks[1:, 1] == marks[:-1, 1]) & (marks[1:, 0] >> 16 == marks[:-1, 0] >> 16)
    first, second = marks[:-1, 0][together].astype(np.uint64), marks[1:, 0][together].astype(np.uint64)
    mixed = (first << np.uint64(16) | second & np.uint64(0xFFFF)) * np.uint64(0x9E3779B97F4A7C15)
    return np.unique((mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9))


def share(marks: np.ndarray, other: np.ndarray, whole: bool) -> float:
    """Landmarks in common at one shift (with a frame of doubt), as a share of the larger of the two, or of `other`.

    Args:
        marks, other: fingerprints.
        whole: the two must be copies of each other: the share is of the larger one, and 0 where a half second has hardly any in
            common, as in two sentences of a synthetic voice that differ in a word. Else `other` may lie inside `marks`.
    """
    if not len(marks) or not len(other):
        return 0.0
    other = other[other[:, 0].argsort(kind="stable")]
    low, high = (np.searchsorted(other[:, 0], marks[:, 0], side) for side in ("left", "right"))
    counts = high - low
    if not counts.any():
        return 0.0
    places = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    sources = np.repeat(np.arange(len(marks)), counts)
    shifts = marks[sources, 1] - other[places, 1]
    least = int(shifts.min())
    votes = np.bincount(shifts - least)
    around = np.pad(votes, 1)
    votes = votes + np.where(votes > 0, np.maximum(around[:-2], around[2:]), 0)
    best = int(votes.argmax())
    if whole:
        agree = np.abs(shifts - least - best) <= 1
        smaller, agreeing = (marks, sources[agree]) if len(marks) <= len(other) else (other, places[agree])
        parts = (smaller[:, 1] - smaller[:, 1].min()) // _PART_FRAMES
        sizes = np.bincount(parts)
        common = np.bincount(parts[np.unique(agreeing)], minlength=len(sizes))
        if (common < _PART_SHARE * sizes)[sizes >= _PART_LANDMARKS].any():
            return 0.0
    return round(min(int(votes[best]) / (max(len(marks), len(other)) if whole else len(other)), 1.0), 4)


class Contents:
    """Fingerprints under names, to be found inside others.

    Finding compares at most `_CANDIDATES` fingerprints, however many there are. Memory is 8 bytes per landmark added and 12 per
    hash: some 100 MB for 40 hours of evaluation sets.
    """

    def __init__(self) -> None:
        self.num_compared = 0
        self._names: list[str] = []
        self._marks: list[np.ndarray] = []
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str, marks: np.ndarray) -> None:
        """Add one; an empty fingerprint is never found."""
        self._names.append(name)
        self._marks.append(marks)
        self._sorted = None

    def best(self, marks: np.ndarray) -> tuple[str, float] | None:
        """The entry that lies in `marks` with the largest share of its landmarks, and that share; None where none may."""
        return next(iter(self.found(marks)), None)

    def found(self, marks: np.ndarray) -> list[tuple[str, float]]:
        """The entries that may lie in `marks`, at most `_CANDIDATES`, and the shares of their landmarks; the largest first."""
        known, owners = self._sorted if self._sorted is not None else self._sort()
        wanted = hashes(marks)
        low, high = (np.searchsorted(known, wanted, side) for side in ("left", "right"))
        counts = np.minimum(high - low, _OWNERS)
        if not counts.any():
            return []
        places = np.repeat(low - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        numbers, votes = np.unique(owners[places], return_counts=True)
        chosen = numbers[np.argsort(-votes, kind="stable")[:_CANDIDATES]]
        self.num_compared += len(chosen)
        shares = [(self._names[i], share(marks, self._marks[i], whole=False)) for i in sorted(chosen.tolist())]
        return sorted(shares, key=lambda entry: -entry[1])

    def _sort(self) -> tuple[np.ndarray, np.ndarray]:
        each = [hashes(marks) for marks in self._marks]
        owners = np.repeat(np.arange(len(each), dtype=np.int32), [len(entry) for entry in each])
        known = np.concatenate([np.zeros(0, np.uint64), *each])
        order = known.argsort(kind="stable")
        self._sorted = known[order], owners[order]
        return self._sorted


class Copies:
    """Fingerprints of a corpus, numbered as they are added, among which copies of each other are sought.

    MinHash with one permutation: the hashes of a clip fall into `_BANDS` bands, the least of each is kept, and two clips that
    agree in a band may be copies. A clip is compared with at most `_CANDIDATES` earlier ones. Kept in memory are 12 * `_BANDS`
    bytes per clip; the landmarks, 8 bytes each, lie in a temporary file.
    """

    def __init__(self) -> None:
        self.num_compared = 0
        self._bands = array("I")
        self._ends = array("q", [0])
        self._file = tempfile.TemporaryFile(prefix="bcaudio-")  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Copies:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, marks: np.ndarray) -> None:
        """Add one; an empty fingerprint has no copies."""
        mixed, least = hashes(marks), np.full(_BANDS, _EMPTY)
        np.minimum.at(least, (mixed % np.uint64(_BANDS)).astype(np.int64), (mixed >> np.uint64(32)).astype(np.uint32))
        self._bands.frombytes(least.tobytes())
        self._file.write(marks.astype(np.int32).tobytes())
        self._ends.append(self._ends[-1] + len(marks))

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 [C] earlier numbers, those that agree most first, and int64 [N + 1]: where those of each clip begin."""
        bands = np.frombuffer(self._bands, np.uint32).reshape(-1, _BANDS)
        size = len(bands)
        like = np.empty((2 * _BANDS, size), np.int32)
        for number, column in enumerate(bands.T):
            like[2 * number : 2 * number + 2] = _like(column)
        found, counts = [np.zeros(0, np.int32)], np.zeros(size + 1, np.int64)
        for start in range(0, size, _SLICE):
            block = like[:, start : start + _SLICE]
            pairs = (np.arange(block.shape[1]) * size + block)[block >= 0]
            codes, votes = np.unique(pairs, return_counts=True)
            later, earlier = codes // size, codes % size
            order = np.lexsort((earlier, -votes, later))
            later, earlier = later[order], earlier[order]
            chosen = np.arange(len(later)) - np.searchsorted(later, later) < _CANDIDATES
            found.append(earlier[chosen].astype(np.int32))
            counts[start + 1 : start + 1 + block.shape[1]] = np.bincount(later[chosen], minlength=block.shape[1])
        return np.concatenate(found), np.cumsum(counts)

    def share(self, one: int, other: int) -> float:
        """Of the larger of two clips (`share`)."""
        self.num_compared += 1
        return share(self._read(one), self._read(other), whole=True)

    def _read(self, number: int) -> np.ndarray:
        first, end = self._ends[number], self._ends[number + 1]
        self._file.seek(8 * first)
        return np.frombuffer(self._file.read(8 * (end - first)), np.int32).reshape(-1, 2)


def _like(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 [N] twice: for each entry the equal one before it, and the first of all that are equal; -1 where there is none."""
    order = column.argsort(kind="stable")
    ordered = column[order]
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    alone = begins | (ordered == _EMPTY)
    before, first = np.empty(len(column), np.int64), np.empty(len(column), np.int64)
    before[order] = np.where(alone, -1, np.concatenate([[0], order[:-1]]))
    starts = order[np.maximum.accumulate(np.where(begins, np.arange(len(column)), 0))]
    first[order] = np.where(alone | (starts == before[order]), -1, starts)
    return before, first
