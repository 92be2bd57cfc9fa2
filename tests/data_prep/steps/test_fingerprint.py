from __future__ import annotations

import numpy as np

from data_prep.steps.fingerprint import RATE, FingerprintIndex, fingerprint


def test_shares_are_counted_at_one_shift_with_a_frame_of_doubt() -> None:
    index = FingerprintIndex()
    index.add("a", [[1, 0], [2, 10], [3, 20], [4, 30]])
    index.add("b", [[1, 0], [9, 5]])
    # 1, 2 and 3 lie 100 frames later (3 one frame off), 4 lies elsewhere
    heard = [[1, 100], [2, 110], [3, 121], [4, 250], [7, 300], [8, 301]]
    assert index.best(heard, whole=False) == ("a", 0.75)
    assert index.best(heard, whole=True) == ("a", 0.5)
    assert index.best([[9, 50]], whole=False) == ("b", 0.5)
    assert index.best([[5, 0]], whole=True) is None


def test_two_tones_in_turn_give_the_landmark_worked_out_by_hand() -> None:
    t = np.arange(RATE // 4) / RATE
    tones = [np.hanning(len(t)) * np.sin(2 * np.pi * hertz * t) for hertz in (1000, 2000)]
    marks = fingerprint(np.concatenate(tones).astype(np.float32), RATE)
    # bins of 7.8125 Hz, counted from 62.5 Hz: 1000 Hz is 120, 2000 Hz is 248, in steps of 4: 30 and 62; 250 ms are 31 frames
    assert [30 << 16 | 62 << 8 | 31 // 12] in [[mark] for mark, _ in marks]
