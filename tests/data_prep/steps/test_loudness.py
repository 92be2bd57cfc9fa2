from __future__ import annotations

import numpy as np
import pytest

from data_prep.steps.loudness import Loudness, clipped_share, level_dbfs
from data_prep.utterance import Clip, Drops, Part, Utterance

RATE = 24_000


def _clip(waveform: np.ndarray, key: str = "k") -> Clip:
    utterance = Utterance(key, "c", "train", "en", (Part("", "narrator"),), "")
    return Clip(utterance, waveform.astype(np.float32), RATE)


def _run(step: Loudness, *clips: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(step(iter(clips), drops)), drops


def test_level_of_known_signals() -> None:
    assert level_dbfs(np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)) == -3.01
    assert level_dbfs(np.full(100, 0.1, np.float32)) == -20.0
    assert level_dbfs(np.zeros(100)) == -120.0


def test_flat_tops_count_and_single_peaks_do_not() -> None:
    assert clipped_share(np.array([0, 1, 0, 1, 0, -1, 0, 1], np.float32), 0.98) == 0.0
    assert clipped_share(np.array([0, 1, 1, 1, 0, -1, -1, 0, 0, 0], np.float32), 0.98) == 0.5
    assert clipped_share(np.array([0, 0.5, 0.5, 0.5], np.float32), 0.98) == 0.0  # far from full scale
    assert clipped_share(np.array([1, -1, 1, -1], np.float32), 0.98) == 0.0  # neighbours of other sign are no flat top


def test_planted_clipped_clips_are_found() -> None:
    rng = np.random.default_rng(0)
    planted, clips = set(), []
    for number in range(60):
        voice = rng.laplace(0, 0.08, RATE).astype(np.float32)
        voice = np.convolve(voice, np.hanning(9) / 3, "same")
        voice = voice / np.abs(voice).max()  # peaks at full scale, as mastered recordings have
        if number % 3 == 0:
            planted.add(f"k{number}")
            voice = np.clip(voice * rng.uniform(3, 6), -1, 1)
        clips.append(_clip(np.round(voice * 32767) / 32768, f"k{number}"))
    kept, drops = _run(Loudness(), *clips)
    found = {drop.key for drop in drops if drop.reason == "clipped"}
    recall, precision = len(found & planted) / len(planted), len(found & planted) / max(len(found), 1)
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}"
    assert len(kept) + len(drops) == 60


def test_the_level_is_set_unless_peaks_forbid() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 100 * np.arange(RATE) / RATE)
    [clip], _ = _run(Loudness(target_dbfs=-20.0), _clip(tone))
    assert level_dbfs(clip.waveform) == pytest.approx(-20.0, abs=0.01)
    assert clip.measures == {"level_dbfs": -23.01, "clipped_share": 0.0}
    [loud], _ = _run(Loudness(target_dbfs=0.0), _clip(tone))
    assert np.abs(loud.waveform).max() == pytest.approx(0.99, abs=1e-5)
    [same], _ = _run(Loudness(), _clip(tone))
    np.testing.assert_array_equal(same.waveform, tone.astype(np.float32))


def test_quiet_clips_are_dropped_and_text_only_passes() -> None:
    text = _clip(np.zeros(0))
    kept, drops = _run(Loudness(min_dbfs=-50), _clip(np.full(RATE, 1e-3)), text)
    assert kept == [text]
    assert [(d.reason, d.value, d.duration_s) for d in drops] == [("too quiet", -60.0, 1.0)]
    with pytest.raises(ValueError, match="target_dbfs is 3"):
        Loudness(target_dbfs=3)
