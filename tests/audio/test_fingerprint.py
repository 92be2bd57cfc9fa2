from __future__ import annotations

import numpy as np

from bcaudio.audio.fingerprint import RATE, Contents, Copies, fingerprint, hashes, pack, share, unpack


def _marks(*pairs: tuple[int, int]) -> np.ndarray:
    return np.array(pairs, np.int32).reshape(-1, 2)


def _clip(rng: np.random.Generator, num_peaks: int = 60) -> np.ndarray:
    """Landmarks as of speech: three from every peak, of low frequencies more often than of high ones."""
    bins = np.minimum(rng.exponential(25, size=(num_peaks, 4)), 109).astype(int)
    away = rng.integers(0, 11, size=(num_peaks, 3))
    frames = np.sort(rng.choice(40 * num_peaks, num_peaks, replace=False))
    return _marks(*((b[0] << 16 | b[k + 1] << 8 | d[k], t) for b, d, t in zip(bins, away, frames, strict=True) for k in range(3)))


def _damaged(marks: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A copy that keeps six of ten landmarks, and has other ones instead."""
    copy = marks.copy()
    lost = rng.random(len(copy)) > 0.6
    copy[lost, 0] = (copy[lost, 0] & ~0xFFFF) | rng.integers(0, 1 << 14, lost.sum())
    return copy + np.array([0, 17], np.int32)


def test_shares_are_counted_at_one_shift_with_a_frame_of_doubt() -> None:
    one, other = _marks((1, 0), (2, 10), (3, 20), (4, 30)), _marks((1, 0), (9, 5))
    # 1, 2 and 3 lie 100 frames later (3 one frame off), 4 lies elsewhere
    heard = _marks((1, 100), (2, 110), (3, 121), (4, 250), (7, 300), (8, 301))
    assert share(heard, one, whole=False) == 0.75
    assert share(heard, one, whole=True) == 0.5
    assert share(_marks((9, 50)), other, whole=False) == 0.5
    assert share(_marks((5, 0)), one, whole=True) == 0.0
    assert share(_marks(), one, whole=True) == 0.0


def test_two_sentences_that_differ_for_half_a_second_are_no_copies() -> None:
    marks = np.stack([np.arange(400), np.repeat(np.arange(200), 2)], axis=1).astype(np.int32)  # two in a frame, 62 frames a part
    other = marks.copy()
    other[124:248, 0] += 1000  # the second part: 276 of 400 are left
    assert share(marks, other, whole=False) == 0.69
    assert share(marks, other, whole=True) == 0.0
    other[124:137, 0] -= 1000  # 13 of 124 are a tenth of that part
    assert share(marks, other, whole=True) == 0.7225


def test_hashes_are_of_two_landmarks_of_one_peak() -> None:
    peak = [(5 << 16 | 6 << 8 | 1, 0), (5 << 16 | 7 << 8 | 2, 0)]
    assert len(hashes(_marks(*peak, (5 << 16 | 8 << 8, 9)))) == 1  # the third begins later
    assert len(hashes(_marks(*peak, (6 << 16 | 8 << 8, 0)))) == 1  # or at another frequency
    np.testing.assert_array_equal(hashes(_marks(*peak)), hashes(_marks(*((mark, frame + 40) for mark, frame in peak))))


def test_packing_keeps_every_landmark() -> None:
    marks = _clip(np.random.default_rng(0))
    np.testing.assert_array_equal(unpack(pack(marks)), marks)
    assert pack(_marks()) == ""
    assert unpack("").shape == (0, 2)


def _candidates(clips: list[np.ndarray]) -> list[set[int]]:
    with Copies() as copies:
        for marks in clips:
            copies.add(marks)
        earlier, begins = copies.candidates()
    return [set(earlier[begins[i] : begins[i + 1]].tolist()) for i in range(len(clips))]


def test_copies_are_found_among_many_clips() -> None:
    rng = np.random.default_rng(1)
    clips = [_clip(rng) for _ in range(2000)]
    found = _candidates([*clips, *(_damaged(clips[number], rng) for number in range(0, 2000, 10))])
    planted = [10 * i in found[2000 + i] for i in range(200)]
    assert sum(planted) == 200
    assert sum(map(len, found)) < 600  # 200 of them are right, of 2.4 million pairs


def test_comparisons_grow_with_the_corpus_even_where_every_clip_is_like_many_others() -> None:
    compared = []
    for size in (400, 800, 1600):
        rng = np.random.default_rng(1)
        sounds = [_clip(rng) for _ in range(5)]
        found = _candidates([_damaged(sounds[number % 5], rng) for number in range(size)])
        assert max(map(len, found)) <= 8
        compared.append(sum(map(len, found)))
    assert compared[0] > 6 * 400
    assert compared[2] <= 4.4 * compared[0], compared  # linear would be 4, quadratic 16


def test_contents_are_found_in_longer_clips_with_few_comparisons() -> None:
    rng = np.random.default_rng(2)
    for size in (100, 400):
        contents = Contents()
        entries = [_clip(rng, 30) for _ in range(size)]
        for number, marks in enumerate(entries):
            contents.add(f"e{number}", marks)
        for number in range(0, size, 5):
            around = _clip(rng, 200)
            inside = _damaged(entries[number], rng)
            name, found = contents.best(np.concatenate([around, inside])) or ("", 0.0)
            assert (name, found >= 0.35) == (f"e{number}", True)
        strangers = [contents.best(_clip(rng, 200)) for _ in range(20)]
        assert max((found for _, found in filter(None, strangers)), default=0.0) < 0.2
        assert contents.num_compared <= 8 * (size // 5 + 20)
    assert Contents().best(_clip(rng)) is None
    later = np.array([0, 5000], np.int32)
    both = np.concatenate([entries[3], _clip(rng, 50) + later, entries[7] + 2 * later])
    assert {name for name, found in contents.found(both) if found > 0.9} == {"e3", "e7"}


def test_two_tones_in_turn_give_the_landmark_worked_out_by_hand() -> None:
    t = np.arange(RATE // 4) / RATE
    tones = [np.hanning(len(t)) * np.sin(2 * np.pi * hertz * t) for hertz in (1000, 2000)]
    marks = fingerprint(np.concatenate(tones).astype(np.float32), RATE)
    # bins of 7.8125 Hz, counted from 62.5 Hz: 1000 Hz is 120, 2000 Hz is 248, in steps of 4: 30 and 62; 250 ms are 31 frames
    assert [30 << 16 | 62 << 8 | 31 // 12] in [[mark] for mark, _ in marks]
