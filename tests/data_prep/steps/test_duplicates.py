from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bcaudio.audio.fingerprint import fingerprint
from data_prep.steps.duplicates import Duplicates
from data_prep.utterance import Clip, Drops, Part, Timbre, Utterance

RATE = 24_000


def _clip(key: str, text: str, waveform: np.ndarray | None = None, language: str = "en") -> Clip:
    utterance = Utterance(key, "c", "train", language, (Part(text, "narrator"),), text)
    return Clip(utterance, np.zeros(0, np.float32) if waveform is None else waveform.astype(np.float32), RATE)


def _survey(step: Duplicates, clips: list[Clip]) -> tuple[list[str], Drops]:
    looks = ((clip.utterance.key, json.loads(json.dumps(step.look(clip)))) for clip in clips)
    verdicts = json.loads(json.dumps(step.judge(looks)))
    drops = Drops()
    kept = [step.apply(clip, verdicts.get(clip.utterance.key), drops) for clip in clips]
    return [clip.utterance.key for clip in kept if clip is not None], drops


def _altered(waveform: np.ndarray, number: int) -> np.ndarray:
    """A copy: another level, noise 20 dB below, shifted by up to 0.3 s, in turn and together."""
    rng = np.random.default_rng(number)
    copy = waveform * rng.uniform(0.1, 1.0) if number % 2 else waveform
    if number % 3:
        copy = np.concatenate([np.zeros(rng.integers(0, RATE // 3)), copy])
    if number % 5:
        copy = copy + rng.normal(0, np.sqrt(np.mean(copy**2) / 100), len(copy))
    return copy


def test_planted_copies_are_found_and_like_sentences_are_not() -> None:
    pytest.importorskip("espeakng_loader")
    from data_prep.sources.micro_world import MicroWorld
    from data_prep.steps.synthesize import synthesize

    utterances = MicroWorld("stories", 32, 0).list_utterances(0, Path()).utterances[:40]
    voices = [Timbre("Hugo", 42, 185), Timbre("f1", 48, 200)]  # few voices and few words: the hardest case
    clips, planted = [], set()
    for number, utterance in enumerate(utterances):
        waveform = synthesize(utterance.text, utterance.language, voices[number % 2]).waveform
        clips.append(_clip(f"a{number}", utterance.text, waveform))
        if number % 2 == 0:
            planted.add(f"b{number}")
            clips.append(_clip(f"b{number}", "", _altered(waveform, number)))
    kept, drops = _survey(Duplicates(), clips)
    found = {drop.key for drop in drops if drop.reason == "duplicate audio"}
    recall, precision = len(found & planted) / len(planted), len(found & planted) / max(len(found), 1)
    assert len(planted) == 20
    assert (recall, precision) == (1.0, 1.0), f"recall {recall:.2f}, precision {precision:.2f}"
    assert {drop.key: drop.value["of"] for drop in drops} == {key: f"a{key[1:]}" for key in planted}
    assert len(kept) == 40


def test_texts_are_compared_within_their_language_and_only_without_sound() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, RATE)
    other = np.random.default_rng(1).normal(0, 0.1, RATE)
    clips = [
        _clip("one", "Hello, World!"),
        _clip("two", "hello world"),
        _clip("three", "hello world", sound),
        _clip("four", "hello world", other),
        _clip("five", "hello world", language="es"),
        _clip("six", "..."),
        _clip("seven", "?"),
    ]
    kept, drops = _survey(Duplicates(), clips)
    assert kept == ["one", "three", "four", "five", "six", "seven"]
    assert [(d.key, d.reason, d.value) for d in drops] == [("two", "duplicate text", {"of": "one"})]
    assert _survey(Duplicates(text="all"), clips)[0] == ["one", "five", "six", "seven"]
    assert _survey(Duplicates(text="none"), clips)[1] == []


def test_silence_has_no_fingerprint_and_is_no_duplicate() -> None:
    silent = np.zeros(RATE)
    assert fingerprint(silent.astype(np.float32), RATE).shape == (0, 2)
    assert fingerprint(np.ones(100, np.float32), RATE).shape == (0, 2)
    assert _survey(Duplicates(), [_clip("a", "", silent), _clip("b", "", silent)])[1] == []


def test_a_copy_of_a_copy_points_at_what_stays() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    _, drops = _survey(Duplicates(), [_clip(key, "", sound) for key in "abc"])
    assert [(d.key, d.value) for d in drops] == [("b", {"of": "a", "share": 1.0}), ("c", {"of": "a", "share": 1.0})]


def test_what_was_dropped_for_its_text_takes_no_other_clip_with_it() -> None:
    sound = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
    other = np.random.default_rng(1).normal(0, 0.1, 2 * RATE)
    clips = [_clip("a", "one", sound), _clip("b", "one", other), _clip("c", "two", other), _clip("d", "three", other)]
    kept, drops = _survey(Duplicates(text="all"), clips)
    assert kept == ["a", "c"]  # b had the text of a, so the sound that it shared stays with c
    assert [(d.key, d.value["of"]) for d in drops] == [("b", "a"), ("d", "c")]


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="min_share is 0"):
        Duplicates(min_share=0)
    with pytest.raises(ValueError, match="'some'"):
        Duplicates(text="some")
