from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from bcaudio.evaluation.quality import DNSMOS
from data_prep.steps.mos import CheckMos, DnsMos
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance

RATE = 24_000


class Peak:
    def score(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        return {"overall": float(waveform.max()), "signal": 4.0}


def _clip(level: float, num_samples: int = RATE) -> Clip:
    utterance = Utterance("k", "c", "train", "en", (Part("", "user"),), "")
    return Clip(utterance, np.full(num_samples, level, np.float32), RATE)


def test_clips_below_the_score_are_dropped() -> None:
    drops = Drops()
    text = _clip(0, 0)
    kept = list(CheckMos(Peak(), min_mos=3.0)(iter([_clip(3.5), _clip(2.5), text]), drops))
    assert [clip.measures for clip in kept] == [{"mos": 3.5, "mos_signal": 4.0}, {}]
    assert [(d.reason, d.value, d.duration_s) for d in drops] == [("low mos", 2.5, 1.0)]


def test_raw_outputs_become_scores_by_the_published_fits() -> None:
    class Session:
        def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[list[list[float]]]:
            assert inputs["input_1"].shape == (1, 144_160)
            return [[[1.0, 2.0, 3.0]]]

    predictor, network = DnsMos(), DNSMOS.__new__(DNSMOS)
    predictor._network, network._session = network, Session()
    scores = predictor.score(np.zeros(RATE, np.float32), RATE)
    assert scores == {"signal": 1.142, "background": 2.296, "overall": 2.783}  # -0.08397 + 1.22084 + 0.00524 = 1.14211, ...


def test_dnsmos_hears_noise() -> None:
    for name in ("speechmos", "onnxruntime", "espeakng_loader"):
        if name != "speechmos":
            pytest.importorskip(name)
    import importlib.util

    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("speechmos is not installed")
    from data_prep.steps.synthesize import synthesize

    speech = synthesize("tom has three red apples and gives two of them to mia today.", "en", Timbre("Hugo", 42, 185)).waveform
    predictor = pickle.loads(pickle.dumps(DnsMos()))
    clean = predictor.score(speech, RATE)
    noisy = predictor.score(speech + np.random.default_rng(0).normal(0, 0.05, len(speech)).astype(np.float32), RATE)
    assert 1 <= noisy["overall"] < clean["overall"] - 0.3 <= 4.7
    assert noisy["background"] < clean["background"] - 0.5
    assert predictor.score(speech, RATE) == clean


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[mos\]"):
        DnsMos().score(np.zeros(RATE, np.float32), RATE)
