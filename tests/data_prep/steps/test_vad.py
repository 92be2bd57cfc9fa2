from __future__ import annotations

import pickle
from collections.abc import Sequence

import numpy as np
import pytest

from data_prep.steps.vad import CutSpeech, Silero, VoiceActivity, WebRtc
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance, Word

RATE = 24_000


class Scripted:
    """Calls the frames speech that a test says, 0.1 s each."""

    frame_s = 0.1

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def speech(self, waveform: np.ndarray) -> np.ndarray:
        return np.array(self.values)


def _clip(duration_s: float, text: str = "", words: tuple[Word, ...] = ()) -> Clip:
    utterance = Utterance("talk-1", "c", "train", "en", (Part(text, "narrator"),), text, audio="a.wav", start_s=5.0)
    return Clip(utterance, np.arange(round(duration_s * RATE), dtype=np.float32), RATE, words)


def _run(step: CutSpeech, clip: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(step(iter([clip]), drops)), drops


def test_stretches_padding_and_drops_are_those_worked_out_by_hand() -> None:
    # speech in 0.5-1.5 s and 2.5-3.5 s, a blip in 5.0-5.1 s; 6 s in all
    values = [0.0] * 5 + [1.0] * 10 + [0.0] * 10 + [1.0] * 10 + [0.0] * 15 + [1.0] + [0.0] * 9
    kept, drops = _run(CutSpeech(Scripted(values), padding_s=0.1, min_s=0.5), _clip(6.0))
    assert [clip.utterance.key for clip in kept] == ["talk-1-000", "talk-1-001"]
    assert [clip.duration_s for clip in kept] == pytest.approx([1.2, 1.2])
    assert [(clip.utterance.start_s, clip.utterance.end_s) for clip in kept] == [
        pytest.approx((5.4, 6.6)),
        pytest.approx((7.4, 8.6)),
    ]
    assert kept[0].waveform[0] == round(0.4 * RATE)
    assert [(drop.reason, drop.duration_s) for drop in drops] == [
        ("silence", pytest.approx(3.3)),
        ("too short", pytest.approx(0.3)),
    ]
    assert sum(clip.duration_s for clip in kept) + sum(drop.duration_s for drop in drops) == pytest.approx(6.0)


def test_padding_never_makes_two_stretches_overlap() -> None:
    values = [1.0] * 10 + [0.0] * 4 + [1.0] * 10
    kept, drops = _run(CutSpeech(Scripted(values), padding_s=1.0), _clip(2.4))
    assert [clip.duration_s for clip in kept] == pytest.approx([1.2, 1.2])
    assert [drop for drop in drops if drop.duration_s > 1e-6] == []


def test_a_short_gap_and_a_dip_above_the_lower_threshold_do_not_end_a_stretch() -> None:
    values = [0.6] * 5 + [0.4] * 5 + [0.6] * 5 + [0.0] * 2 + [0.6] * 5
    assert CutSpeech(Scripted(values), padding_s=0.0).stretches(_clip(2.2)) == [(0.0, pytest.approx(2.2))]


def test_a_long_stretch_is_cut_where_speech_is_least_likely() -> None:
    values = [1.0] * 30
    values[17] = 0.9
    stretches = CutSpeech(Scripted(values), padding_s=0.0, min_s=0.5, max_s=2.0).stretches(_clip(3.0))
    assert stretches == [(0.0, pytest.approx(1.75)), (pytest.approx(1.75), pytest.approx(3.0))]


def test_text_follows_the_words_of_each_stretch() -> None:
    words = (Word("one", 0.1, 0.4), Word("two", 0.5, 0.9), Word("three", 2.1, 2.5))
    values = [1.0] * 10 + [0.0] * 10 + [1.0] * 10
    kept, _ = _run(CutSpeech(Scripted(values), padding_s=0.0), _clip(3.0, "One, two. (Three!)", words))
    assert [clip.utterance.text for clip in kept] == ["One, two.", "(Three!)"]
    assert [(word.text, round(word.start_s, 3)) for word in kept[1].words] == [("three", 0.1)]
    whole, _ = _run(CutSpeech(Scripted([0.0] * 2 + [1.0] * 28), padding_s=0.0), _clip(3.0, "One, two. (Three!)", words))
    assert (whole[0].utterance.key, whole[0].utterance.text) == ("talk-1", "One, two. (Three!)")


def test_silence_is_dropped_whole_and_text_only_passes() -> None:
    kept, drops = _run(CutSpeech(Scripted([0.0] * 10)), _clip(1.0))
    assert kept == []
    assert [(drop.reason, drop.step, drop.duration_s) for drop in drops] == [("no speech", "CutSpeech", 1.0)]
    silent = _clip(0.0)
    assert _run(CutSpeech(Scripted([])), silent) == ([silent], [])


def test_settings_that_cannot_hold_are_refused() -> None:
    with pytest.raises(ValueError, match="min_s is 2 and max_s 3"):
        CutSpeech(Scripted([]), min_s=2, max_s=3)
    with pytest.raises(ValueError, match=r"threshold is 1\.5"):
        CutSpeech(Scripted([]), threshold=1.5)
    with pytest.raises(ValueError, match="mode is 4"):
        WebRtc(4)


@pytest.mark.parametrize(("detector", "slack_s"), [(Silero(), 0.1), (WebRtc(3), 0.15)], ids=["silero", "webrtc"])
def test_seconds_of_speech_kept_are_near_the_truth(detector: VoiceActivity, slack_s: float) -> None:
    pytest.importorskip("silero_vad" if isinstance(detector, Silero) else "webrtcvad")
    pytest.importorskip("espeakng_loader")
    from data_prep.steps.synthesize import MARGIN_S, synthesize

    spoken = [
        synthesize(text, "en", Timbre("Hugo", 42, 185)).waveform
        for text in ("tom has three red apples and gives them to me", "now there are seven of them in the big house")
    ]
    pause = np.zeros(RATE, np.float32)
    noise = np.random.default_rng(0).normal(0, 1e-4, 3 * RATE + len(spoken[0]) + len(spoken[1]))
    waveform = (np.concatenate([pause, spoken[0], pause, spoken[1], pause]) + noise).astype(np.float32)
    clip = Clip(_clip(0).utterance, waveform, RATE)
    step = pickle.loads(pickle.dumps(CutSpeech(detector, padding_s=0.0)))
    kept, drops = _run(step, clip)
    truth = [len(part) / RATE - 2 * MARGIN_S for part in spoken]
    found = [part.duration_s for part in kept]
    assert found == [pytest.approx(seconds, abs=slack_s) for seconds in truth], f"{found} s found, {truth} s true"
    total = sum(found) + sum(drop.duration_s for drop in drops)
    assert total == pytest.approx(clip.duration_s, abs=1e-3)
    again, _ = _run(step, clip)  # the model's state from the first time is gone
    assert [part.duration_s for part in again] == found
