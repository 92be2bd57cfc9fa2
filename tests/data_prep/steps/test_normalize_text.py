from __future__ import annotations

import pickle

import numpy as np
import pytest

from data_prep.steps.normalize_text import NormalizeText
from data_prep.utterance import Clip, Drops, Part, Utterance, Word


def _clip(text: str, language: str, words: tuple[Word, ...] = ()) -> Clip:
    return Clip(Utterance("k", "c", "train", language, (Part(text, "user"),), text), np.zeros(0, np.float32), 24_000, words)


def _run(*clips: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(pickle.loads(pickle.dumps(NormalizeText()))(iter(clips), drops)), drops


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("I paid $3.50 for 12 apples.", "en", "I paid three point five dollars for twelve apples."),
        ("他有3.5公斤苹果，2024年5月6日。", "zh", "他有三点五公斤苹果，二零二四年五月六日。"),
    ],
)
def test_digits_become_words(text: str, language: str, expected: str) -> None:
    pytest.importorskip("wetext")
    [clip], drops = _run(_clip(text, language))
    assert clip.utterance.text == clip.utterance.parts[0].text == expected
    assert clip.measures == {"written": text}
    assert not drops


def test_what_needs_no_rules_stays_as_it_is() -> None:
    clips = [_clip("Don't, Mr. Smith!", "en"), _clip("20 euros", "fr"), _clip("20", "en", (Word("20", 0, 1),))]
    kept, drops = _run(*clips)
    assert kept == clips or [clip.utterance for clip in kept] == [clip.utterance for clip in clips]
    assert [clip.measures for clip in kept] == [{}, {}, {}]
    assert not drops


def test_digits_that_the_rules_leave_are_a_reason_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NormalizeText, "spoken", lambda self, text, language: text)
    kept, drops = _run(_clip("agent 007", "en"))
    assert kept == []
    assert [(d.reason, d.value) for d in drops] == [("digits left", "007")]


def test_a_language_without_rules_is_refused_and_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    with pytest.raises(ValueError, match="'fr'"):
        NormalizeText(["fr"])
    monkeypatch.setitem(sys.modules, "wetext", None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[normalize\]"):
        _run(_clip("7", "en"))
