"""Every row of the task table: what is heard, what is spoken, what pays loss (paper section 3.3)."""

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.data.tasks import TASKS, Segment, segments_of


def story(**fields: object) -> Sample:
    spans = tuple(Span(text, 0.5 * i, 0.5 * i + 0.4, "narrator") for i, text in enumerate(("one", "two", "three", "four")))
    codes = np.arange(8, dtype=np.int16).reshape(4, 2)
    defaults = {"translation": "一", "target_language": "zh", "answer": "seven"}
    return Sample("s-0", "stories", "test", "en", "m1", "one two three four", spans, **(defaults | fields), duration_s=2.0,
                  span_num_codes=(1, 1, 1, 1), codes=codes)  # fmt: skip


def shape(segments: list[Segment]) -> list[str]:
    """`hear`, `speak`, `text` or `special`, with `+` where loss is paid."""
    return [(s.direction if s.modality == "audio" else s.modality) + "+" * s.train for s in segments]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("asr", ["text", "hear", "text+"]),
        ("s2tt", ["text", "hear", "text+"]),
        ("aqa", ["text", "hear", "text+"]),
        ("intlv", ["hear", "text+", "hear", "text+"]),
        ("intlv_text_first", ["text", "hear", "text+", "hear"]),
        ("intlv_continue", ["hear", "hear", "hear", "text+"]),
        ("intlv_audio", ["hear+", "text+", "hear+", "text+"]),
        ("intlv_continue_audio", ["hear+", "hear+", "hear+", "text+"]),
        ("tts", ["text", "speak+"]),
        ("itts", ["text", "speak+", "text+", "speak+", "text+", "speak+", "text+", "speak+"]),
        ("audio", ["speak+"] * 4),
        ("text_repeat", ["text", "text", "special", "text+"]),
        ("text_translate", ["text", "text", "special", "text+"]),
        ("text_answer", ["text", "text", "special", "text+"]),
        ("text_story", ["text", "text+", "text+", "text+"]),
    ],
)
def test_task_pays_for_exactly_these_segments(task: str, expected: list[str]) -> None:
    assert shape(segments_of(task, story())) == expected


def test_dialogue_pays_for_the_answer_in_text_and_speech() -> None:
    spans = (Span("what is one plus one", 0, 1, "user"), Span("two", 1, 2, "assistant"))
    sample = Sample("d-0", "dialogue", "test", "en", "m1", "", spans, duration_s=2.0)
    assert shape(segments_of("dialogue", sample)) == ["special", "hear", "special", "special", "text+", "speak+"]


def test_every_task_is_covered_here() -> None:
    assert set(TASKS) == {
        "asr", "s2tt", "aqa", "intlv", "intlv_text_first", "intlv_continue", "intlv_audio", "intlv_continue_audio", "tts",
        "itts", "audio", "dialogue", "text_repeat", "text_translate", "text_answer", "text_story",
    }  # fmt: skip


def test_codes_of_a_segment_are_those_of_its_span() -> None:
    segments = segments_of("intlv", story())
    np.testing.assert_array_equal(segments[2].codes, [[4, 5]])


def test_missing_field_names_sample_and_field() -> None:
    with pytest.raises(ValueError, match=r"s-0.*'answer'"):
        segments_of("aqa", story(answer=None))


def test_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'asrr'.*asr, s2tt"):
        segments_of("asrr", story())
