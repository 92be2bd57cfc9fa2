from __future__ import annotations

import pickle

import numpy as np
import pytest

from data_prep.steps.asr_filter import CheckTranscript
from data_prep.steps.cut import child_key, cut
from data_prep.steps.recognisers import CTCStage, HttpRecogniser, HuggingFaceCTC, Whisper
from data_prep.steps.vad import CutSpeech, Silero, WebRtc
from data_prep.steps.words import normal_form, pieces_of, places_of, units_of
from data_prep.utterance import Clip, Drops, Part, Utterance, Word


def _words(*texts: str) -> list[Word]:
    return [Word(text, i, i + 1) for i, text in enumerate(texts)]


def test_pieces_are_words_without_their_punctuation() -> None:
    pieces = pieces_of("“Well-known”, she said... don't!", "en")
    assert [(piece.text, piece.start, piece.units) for piece in pieces] == [
        ("Well-known", 1, ("well", "known")),
        ("she", 14, ("she",)),
        ("said", 18, ("said",)),
        ("don't", 26, ("don't",)),
    ]
    assert [(piece.text, piece.start) for piece in pieces_of("我有 3 个iPhone。", "zh")] == [
        ("我", 0), ("有", 1), ("3", 3), ("个", 5), ("iPhone", 6),
    ]  # fmt: skip
    assert pieces_of("... — !", "en") == []


def test_places_follow_the_words_and_refuse_other_ones() -> None:
    text = "A well-known man."
    assert places_of(_words("a", "well-known", "man"), text, "en") == [0, 2, 13]
    assert places_of(_words("a", "well", "known", "man"), text, "en") == [0, 2, None, 13]
    assert places_of(_words("a", "well", "man"), text, "en") is None
    assert places_of(_words("a", "well-known", "man", "..."), text, "en") is None
    assert places_of([], "", "en") == []


def test_language_codes_beyond_the_four_have_rules() -> None:
    assert units_of("你好 world", "zh-Hant") == units_of("你好 world", "yue") == ["你", "好", "world"]
    assert normal_form("Grüß Gott!", "de") == "grüß gott"


def test_child_keys_are_unique_and_never_too_long() -> None:
    assert child_key("a-1", 7) == "a-1-007"
    long = [child_key("k" * 79 + end, 3) for end in "ab"]
    assert len(set(long)) == 2
    assert {len(key) for key in long} == {80}


def test_a_cut_moves_words_and_keeps_what_lies_inside() -> None:
    utterance = Utterance("k", "c", "train", "en", (Part("One (two) three.", "user"),), "One (two) three.", start_s=10.0)
    clip = Clip(utterance, np.arange(300, dtype=np.float32), 100, tuple(_words("One", "two", "three")))
    child = cut(clip, 0.8, 2.1, 1)
    assert child.waveform.tolist() == list(range(80, 210))
    assert [(word.text, round(word.start_s, 6), round(word.end_s, 6)) for word in child.words] == [("two", 0.2, 1.2)]
    assert (child.utterance.key, child.utterance.text) == ("k-001", "(two)")
    assert (child.utterance.start_s, child.utterance.end_s) == (10.8, 12.1)
    assert child.utterance.parts == (Part("(two)", "user"),)


@pytest.mark.parametrize(
    "tool", [Silero(), WebRtc(), CTCStage("x"), HuggingFaceCTC("x"), Whisper("x"), HttpRecogniser("http://x", "m"), CutSpeech()]
)
def test_what_steps_are_built_of_goes_to_other_processes(tool: object) -> None:
    again = pickle.loads(pickle.dumps(tool))
    assert {k: v for k, v in vars(again).items() if k != "detector"} == {k: v for k, v in vars(tool).items() if k != "detector"}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for module, detector in (("silero_vad", Silero()), ("webrtcvad", WebRtc())):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(ValueError, match=r"pip install bcaudio\[vad\]"):
            detector.speech(np.zeros(16_000, np.float32))


def test_text_only_clips_pass_the_asr_filter() -> None:
    clip = Clip(Utterance("k", "c", "train", "en", (Part("a", "user"),), "a"), np.zeros(0, np.float32), 24_000)
    assert list(CheckTranscript()(iter([clip]), Drops())) == [clip]
