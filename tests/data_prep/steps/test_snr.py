from __future__ import annotations

import numpy as np
import pytest

from data_prep.steps.snr import MAX_DB, EstimateSnr, estimate_snr
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance

RATE = 24_000


def _clip(waveform: np.ndarray) -> Clip:
    return Clip(Utterance("k", "c", "train", "en", (Part("", "user"),), ""), waveform.astype(np.float32), RATE)


@pytest.mark.parametrize("snr_db", [5, 10, 20, 30])
def test_the_estimate_is_within_two_db_of_noise_that_was_added(snr_db: float) -> None:
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.synthesize import synthesize

    speech = synthesize("tom has three red apples, and he gives two of them to mia.", "en", Timbre("Hugo", 42, 185)).waveform
    speech = np.concatenate([speech, np.zeros(RATE // 2, np.float32)])
    noise = np.random.default_rng(0).normal(0, np.sqrt(np.mean(speech**2) / 10 ** (snr_db / 10)), len(speech))
    assert estimate_snr(speech + noise, RATE) == pytest.approx(snr_db, abs=2.0)


def test_ends_of_the_scale() -> None:
    steady = np.random.default_rng(0).normal(0, 0.1, RATE)
    assert estimate_snr(steady, RATE) < 0
    assert estimate_snr(np.zeros(RATE), RATE) == -20.0
    assert estimate_snr(np.concatenate([np.zeros(RATE), steady]), RATE) == MAX_DB


def test_noisy_clips_are_dropped() -> None:
    drops = Drops()
    steady = np.random.default_rng(0).normal(0, 0.1, RATE)
    clean, text = _clip(np.concatenate([np.zeros(RATE), steady])), _clip(np.zeros(0))
    kept = list(EstimateSnr(10.0)(iter([_clip(steady), clean, text]), drops))
    assert [clip.measures for clip in kept] == [{"snr_db": MAX_DB}, {}]
    assert [(d.reason, d.duration_s) for d in drops] == [("low snr", 1.0)]
    assert len(list(EstimateSnr()(iter([_clip(steady)]), drops))) == 1
