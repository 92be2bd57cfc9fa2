from __future__ import annotations

import pickle

import numpy as np
import pytest

from data_prep.steps.resample import Resample
from data_prep.utterance import Clip, Drops, Part, Utterance


def _clip(waveform: np.ndarray, rate: int, audio: str | None = "a.wav") -> Clip:
    return Clip(Utterance("k", "c", "train", "en", (Part("", "narrator"),), "", audio=audio), waveform.astype(np.float32), rate)


def test_a_tone_keeps_its_frequency_and_length() -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000) * 0.5
    drops = Drops()
    [clip] = pickle.loads(pickle.dumps(Resample(24_000)))(iter([_clip(tone, 16_000)]), drops)
    assert (clip.sample_rate, len(clip.waveform), clip.waveform.dtype) == (24_000, 24_000, np.float32)
    expected = np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000) * 0.5
    assert np.abs(clip.waveform - expected)[500:-500].max() < 1e-3
    assert not drops


def test_text_only_passes_and_broken_sound_is_dropped_with_its_reason() -> None:
    good = np.ones(8_000)
    bad = good.copy()
    bad[3:5] = np.nan
    drops = Drops()
    clips = [_clip(good[:0], 24_000, None), _clip(good[:0], 24_000), _clip(bad, 16_000), _clip(good, 8_000)]
    kept = list(Resample(24_000, min_sample_rate=16_000)(iter(clips), drops))
    assert kept == [clips[0]]
    assert [(drop.reason, drop.value, drop.duration_s) for drop in drops] == [
        ("empty", "a.wav", 0.0),
        ("not finite", 2, 0.5),
        ("low sample rate", 8_000, 1.0),
    ]


def test_a_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="0 and 1 Hz"):
        Resample(0)
