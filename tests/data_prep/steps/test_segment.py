from __future__ import annotations

import numpy as np
import pytest

from data_prep.steps.segment import Segment
from data_prep.utterance import Clip, Drops, Part, Utterance, Word

RATE = 1000


def _clip(text: str, words: list[Word], duration_s: float, language: str = "en") -> Clip:
    """Noise where a word is, silence elsewhere."""
    waveform = np.zeros(round(duration_s * RATE), np.float32)
    for word in words:
        first, last = round(word.start_s * RATE), round(word.end_s * RATE)
        waveform[first:last] = np.random.default_rng(0).uniform(0.1, 0.5, last - first)
    utterance = Utterance("k", "c", "train", language, (Part(text, "narrator"),), text)
    return Clip(utterance, waveform, RATE, tuple(words))


def _even(text: str, each_s: float = 0.5, gap_s: float = 0.1) -> list[Word]:
    return [Word(w, i * (each_s + gap_s), i * (each_s + gap_s) + each_s) for i, w in enumerate(text.split())]


def _run(step: Segment, clip: Clip) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(step(iter([clip]), drops)), drops


def test_sentences_become_parts_and_borders_lie_in_the_silence_between() -> None:
    text = "Leo has one ball. “Tom has two!” Now what?"
    clip = _clip(text, _even("leo has one ball tom has two now what"), 5.4)
    [parted], drops = _run(Segment(min_s=0.5), clip)
    assert [part.text for part in parted.utterance.parts] == ["Leo has one ball.", "“Tom has two!”", "Now what?"]
    assert parted.spans[0][0] == 0.0
    assert parted.spans[-1][1] == 5.4
    assert [span[1] for span in parted.spans[:-1]] == [pytest.approx(2.35, abs=0.02), pytest.approx(4.15, abs=0.02)]
    assert [a[1] for a in parted.spans[:-1]] == [b[0] for b in parted.spans[1:]]
    assert not drops


def test_chinese_is_parted_at_its_own_marks() -> None:
    text = "三加四等于七。你好，世界！"
    words = [Word(c, 0.3 * i, 0.3 * i + 0.25) for i, c in enumerate("三加四等于七你好世界")]
    clip = _clip(text, words, 3.0, "zh")
    [parted], _ = _run(Segment(min_s=0.2), clip)
    assert [part.text for part in parted.utterance.parts] == ["三加四等于七。", "你好，世界！"]
    [finer], _ = _run(Segment("clause", min_s=0.2), clip)
    assert [part.text for part in finer.utterance.parts] == ["三加四等于七。", "你好，", "世界！"]


def test_a_pause_ends_a_sentence_that_has_no_mark() -> None:
    words = [Word("yes", 0.0, 1.0), Word("no", 1.6, 2.6)]
    [parted], _ = _run(Segment(pause_s=0.5), _clip("yes no", words, 2.6))
    assert [part.text for part in parted.utterance.parts] == ["yes", "no"]
    assert parted.spans[0][1] == pytest.approx(1.3, abs=0.05)
    [whole], _ = _run(Segment(pause_s=0.7), _clip("yes no", words, 2.6))
    assert len(whole.utterance.parts) == 1


def test_without_a_gap_the_border_is_the_quietest_place_nearby() -> None:
    clip = _clip("Yes. No.", [Word("yes", 0.0, 1.0), Word("no", 1.0, 2.0)], 2.0)
    clip.waveform[930:970] = 0.0  # the synthesiser's events say 1.0, the silence lies before
    [parted], _ = _run(Segment(min_s=0.5), clip)
    assert parted.spans[0][1] == pytest.approx(0.95, abs=0.006)


def test_abbreviations_and_decimals_end_no_sentence() -> None:
    text = "Dr. Smith paid 3.5 dollars. Good."
    words = [Word(w, i, i + 0.9) for i, w in enumerate(["dr", "smith", "paid", "3.5", "dollars", "good"])]
    [parted], _ = _run(Segment(min_s=0.1), _clip(text, words, 6.0))
    assert [part.text for part in parted.utterance.parts] == ["Dr. Smith paid 3.5 dollars.", "Good."]


def test_a_long_sentence_is_cut_at_its_comma_and_else_at_its_longest_gap() -> None:
    words = _even("a b c d e f")
    [by_comma], _ = _run(Segment(min_s=0.5, max_s=3.0), _clip("a b, c d e f", words, 3.6))
    assert [part.text for part in by_comma.utterance.parts] == ["a b,", "c d e f"]
    late = [*words[:3], *(Word(w.text, w.start_s + 0.2, w.end_s + 0.2) for w in words[3:])]
    [by_gap], _ = _run(Segment(min_s=0.5, max_s=3.0), _clip("a b c d e f", late, 3.8))
    assert [part.text for part in by_gap.utterance.parts] == ["a b c", "d e f"]


def test_short_sentences_are_joined_up_to_the_least_length() -> None:
    [parted], _ = _run(Segment(min_s=1.0), _clip("No. No. No. No. No.", _even("no no no no no"), 3.0))
    assert [part.text for part in parted.utterance.parts] == ["No. No.", "No. No. No."]  # the last alone would be too short


def test_a_clip_over_the_limit_becomes_several_and_no_second_is_lost() -> None:
    text = " ".join(["one two three four."] * 10)
    clip = _clip(text, _even(text.replace(".", "")), 24.0)
    children, drops = _run(Segment(min_s=1.0, max_s=5.0, max_clip_s=9.0), clip)
    assert [child.utterance.key for child in children] == ["k-000", "k-001", "k-002", "k-003"]
    assert max(child.duration_s for child in children) <= 9.0
    np.testing.assert_array_equal(np.concatenate([child.waveform for child in children]), clip.waveform)
    assert [len(child.spans) for child in children] == [3, 3, 3, 1]
    assert sum(len(child.words) for child in children) == 40
    second = children[1]
    assert second.utterance.text == "one two three four. one two three four. one two three four."
    assert second.utterance.start_s == pytest.approx(children[0].duration_s)
    assert 0 <= second.words[0].start_s < 0.1
    assert not drops


def test_text_without_sound_is_parted_by_its_marks_alone() -> None:
    [parted], _ = _run(Segment(min_s=0.5), _clip("How are you? I am very well.", [], 0.0))
    assert [part.text for part in parted.utterance.parts] == ["How are you?", "I am very well."]
    assert parted.spans == ()


def test_what_cannot_be_parted_is_named() -> None:
    assert [d.reason for d in _run(Segment(), _clip("yes", [], 1.0))[1]] == ["no alignment"]
    assert [d.reason for d in _run(Segment(), _clip("no", [Word("yes", 0, 1)], 1.0))[1]] == ["words differ from the text"]
    assert [d.reason for d in _run(Segment(), _clip("...", [], 0.0))[1]] == ["no text"]
    with pytest.raises(ValueError, match="max_clip_s 20"):
        Segment(max_s=30, max_clip_s=20)
