from __future__ import annotations

import sys

import numpy as np
import pytest

from data_prep.steps.one_speaker import MelStatistics, OneSpeaker, Resemblyzer
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance

RATE = 24_000
TEXTS = ("tom has three red apples and gives two of them to me today", "now there are seven green ones of them in the big house")


def _clip(waveform: np.ndarray, key: str = "k") -> Clip:
    return Clip(Utterance(key, "c", "train", "en", (Part("", "user"),), ""), waveform.astype(np.float32), RATE)


def test_planted_changes_of_voice_are_found() -> None:
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.synthesize import synthesize

    names = ("Hugo", 42), ("f1", 48), ("klatt2", 45), ("f5", 60), ("Storm", 50), ("pablo", 50)
    voices = [Timbre(*name, 185) for name in names]
    said = [[synthesize(text, "en", voice).waveform for text in TEXTS] for voice in voices]
    clips, planted = [], set()
    for i in range(len(voices)):
        clips.append(_clip(np.concatenate(said[i]), f"one-{i}"))
        clips.append(_clip(np.concatenate([said[i][0], said[(i + 1) % 6][1]]), f"two-{i}"))
        planted.add(f"two-{i}")
    drops = Drops()
    kept = list(OneSpeaker()(iter(clips), drops))
    found = {drop.key for drop in drops if drop.reason == "several speakers"}
    recall, precision = len(found & planted) / len(planted), len(found & planted) / max(len(found), 1)
    assert recall >= 5 / 6, f"recall {recall:.2f}, precision {precision:.2f}"
    assert precision == 1.0, f"recall {recall:.2f}, precision {precision:.2f}"
    assert all(clip.measures["speaker_similarity"] >= OneSpeaker().min_similarity for clip in kept)


def test_an_embedding_has_length_one_and_ignores_the_level() -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    one, quiet = MelStatistics().embed(noise, RATE), MelStatistics().embed(0.1 * noise, RATE)
    assert np.linalg.norm(one) == pytest.approx(1.0)
    assert one @ quiet == pytest.approx(1.0, abs=1e-6)
    assert np.linalg.norm(MelStatistics().embed(np.zeros(RATE, np.float32), RATE)) == pytest.approx(1.0)


def test_windows_that_point_apart_are_counted_by_their_cosine() -> None:
    class Sign:
        same_speaker = 0.5

        def embed(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
            return np.array([1.0, 0.0]) if waveform.mean() > 0 else np.array([0.6, 0.8])

    waveform = np.concatenate([np.ones(2 * RATE), -np.ones(2 * RATE)])
    drops = Drops()
    [clip] = OneSpeaker(Sign(), min_similarity=0.6)(iter([_clip(waveform)]), drops)
    assert clip.measures["speaker_similarity"] == 0.6
    assert list(OneSpeaker(Sign(), min_similarity=0.61)(iter([_clip(waveform)]), drops)) == []
    assert [(d.reason, d.value, d.duration_s) for d in drops] == [("several speakers", 0.6, 4.0)]
    short = _clip(waveform[: 3 * RATE])
    assert list(OneSpeaker(Sign())(iter([short]), drops)) == [short]


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[speaker\]"):
        Resemblyzer().embed(np.zeros(RATE, np.float32), RATE)
    with pytest.raises(ValueError, match="window_s 0"):
        OneSpeaker(window_s=0)
