"""The networks themselves where their extras are installed, and their arithmetic by hand where they are not."""

import importlib.util
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bcaudio.evaluation.quality import DNSMOS, RATE, WINDOW, SpeakerSimilarity
from bcaudio.inference.item import NotRunError

SECOND = np.linspace(-0.5, 0.5, RATE, dtype=np.float32)


class Session:
    """A network whose raw overall score is 3 for its first window, 4 for the next, ..."""

    def __init__(self) -> None:
        self.windows: list[np.ndarray] = []

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list:
        self.windows.append(inputs["input_1"])
        return [[[0.0, 0.0, 2.0 + len(self.windows)]]]


@pytest.fixture
def dnsmos() -> DNSMOS:
    scorer = DNSMOS.__new__(DNSMOS)
    scorer._session = Session()
    return scorer


def test_a_short_sound_is_repeated_to_one_window(dnsmos: DNSMOS) -> None:
    # -0.06766283 x 9 + 1.11546468 x 3 + 0.04602535
    assert dnsmos.score(SECOND, RATE) == pytest.approx(2.783453, abs=1e-5)
    (window,) = dnsmos._session.windows
    assert window.shape == (1, WINDOW)
    assert np.array_equal(window[0, RATE : 2 * RATE], SECOND)


def test_windows_of_a_long_sound_begin_every_second_and_are_averaged(dnsmos: DNSMOS) -> None:
    # raw 3 and 4; the second is -0.06766283 x 16 + 1.11546468 x 4 + 0.04602535
    assert dnsmos.score(np.tile(SECOND, 11)[: WINDOW + RATE], RATE) == pytest.approx((2.783453 + 3.425279) / 2, abs=1e-5)
    assert len(dnsmos._session.windows) == 2


@pytest.mark.parametrize("sound", [np.zeros(0), np.zeros((1, 9)), np.full(9, np.nan)], ids=["empty", "two axes", "nan"])
def test_what_is_no_sound_is_refused(dnsmos: DNSMOS, sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match="DNSMOS: the sound, of shape"):
        dnsmos.score(sound, RATE)


def test_dnsmos_hears_noise() -> None:
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("speechmos is not installed")
    rng, scorer = np.random.default_rng(0), DNSMOS()
    time = np.arange(12 * 24_000) / 24_000
    tone = (0.2 * np.sin(2 * np.pi * 180 * time) * (np.sin(2 * np.pi * 3 * time) > 0)).astype(np.float32)
    noise = rng.normal(0, 0.2, len(tone)).astype(np.float32)
    scores = [scorer.score(sound, 24_000) for sound in (tone, noise)]
    assert 1 <= min(scores) < max(scores) <= 5
    assert scorer.scores(noise, 24_000)["background"] < scorer.scores(tone, 24_000)["background"] - 0.3


def test_similarity_is_the_cosine_of_two_voices_at_16_khz() -> None:
    scorer, heard = SpeakerSimilarity.__new__(SpeakerSimilarity), []
    scorer._encoder = SimpleNamespace(
        embed_utterance=lambda wave: heard.append(len(wave)) or np.array([1.0, 1.0] if wave[-1] > 0 else [2.0, 0.0])
    )
    # 45 degrees apart, whatever their lengths
    assert scorer.score(SECOND, RATE, -np.repeat(SECOND, 2), 2 * RATE) == pytest.approx(0.5**0.5)
    assert scorer.score(SECOND, RATE, SECOND, RATE) == pytest.approx(1.0)
    assert heard == [RATE] * 4


@pytest.mark.slow
def test_one_voice_is_more_like_itself_than_like_another() -> None:
    pytest.importorskip("resemblyzer")
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.synthesize import synthesize
    from data_prep.utterance import Timbre

    texts = ("tom has three red apples and gives two of them to mia.", "it was raining all day long in the old town.")
    deep, deep_too = (synthesize(text, "en", Timbre("Hugo", 30, 185)).waveform for text in texts)
    high = synthesize(texts[1], "en", Timbre("f2", 80, 185)).waveform
    scorer = SpeakerSimilarity()
    assert scorer.score(deep, 24_000, deep_too, 24_000) > scorer.score(deep, 24_000, high, 24_000) + 0.05


def test_an_absent_extra_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotRunError, match=r"pip install bcaudio\[mos\]"):
        DNSMOS()
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(NotRunError, match=r"pip install bcaudio\[speaker\]"):
        SpeakerSimilarity()
