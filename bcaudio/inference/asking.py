"""How an item is put to a model: segments up to its reply. What the reply should be need not be known."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from bcaudio.data.schema import Sample
from bcaudio.data.tasks import Segment, segments_of
from bcaudio.inference.item import ItemError, NotRunError

TEXT_FORMS = {"aqa": "text_answer", "s2tt": "text_translate", "asr": "text_repeat"}
ANSWER = (Segment("special", "audiotext_start"), Segment("special", "answer"))
CHOICE_MODES = ("text", "speech", "speech_to_speech")


def asked(task: str, sample: Sample) -> list[Segment]:
    """The segments of a task; those of `dialogue` end where the first reply begins.

    Raises:
        NotRunError: the task has no prompt for the target language.
    """
    if task == "dialogue":
        replies = (i for i, span in enumerate(sample.spans) if span.role != "user")
        heard = range(max(1, next(replies, len(sample.spans))))  # a clip of one span is the question, whatever its role
        return [*(part for i in heard for part in (Segment("special", "question"), said(sample, i, "hear"))), *ANSWER]
    unknown = {name: "?" for name in ("answer", "translation") if not getattr(sample, name)}
    try:
        return segments_of(task, replace(sample, **unknown) if unknown else sample)
    except KeyError:
        raise NotRunError(f"the task {task} has no prompt for the language {sample.target_language}") from None


def choices(sample: Sample, mode: str) -> list[tuple[list[Segment], Segment]]:
    """(story, ending) for every ending of a sample: its spans of role `right` or `wrong`, in their order.

    Args:
        mode: `text`, all is read; `speech`, the story is heard; `speech_to_speech`, the ending is also spoken.

    Raises:
        ItemError: fewer than two endings, or an empty one.
        ValueError: an unknown mode.
    """
    if mode not in CHOICE_MODES:
        raise ValueError(f"choice_scores: mode is {mode!r}; use one of {', '.join(CHOICE_MODES)}")
    endings = [i for i, span in enumerate(sample.spans) if span.role in ("right", "wrong")]
    spoken = mode == "speech_to_speech"
    if len(endings) < 2 or not (spoken or all(sample.spans[i].text.strip() for i in endings)):
        raise ItemError(
            sample.key, f"{len(endings)} spans of role right or wrong; a choice needs two or more, none of them empty"
        )
    story = [
        Segment("text", span.text) if mode == "text" else said(sample, i, "hear")
        for i, span in enumerate(sample.spans)
        if i not in endings
    ]
    return [(story, said(sample, i, "speak") if spoken else Segment("text", sample.spans[i].text, train=True)) for i in endings]


def said(sample: Sample, span: int, direction: Literal["hear", "speak"]) -> Segment:
    """The sound of a span; ItemError where it has not a single code."""
    codes = sample.span_codes(span)
    if not len(codes):
        raise ItemError(sample.key, f"span {span} is too short for a single code")
    return Segment("audio", sample.spans[span].text, direction == "speak", direction, codes, span)
