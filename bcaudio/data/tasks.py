"""Tasks: how a sample becomes segments, and which of them pay loss (paper section 3.3, released_model section 11).

| task | sequence | pays |
|---|---|---|
| asr | prompt, heard audio, transcript | transcript |
| s2tt | prompt, heard audio, translation | translation |
| aqa | prompt, heard question, answer | answer |
| intlv | audio 1, text 2, audio 3, text 4, ... | text only: paying for audio made the model worse (section 3.3) |
| intlv_text_first, intlv_continue | text 1, audio 2, ...; audio 1, ..., audio n-1, text n | the same |
| intlv_audio, intlv_continue_audio | as intlv and intlv_continue | text and audio: the ablation of section 3.3.1 |
| tts | text, spoken audio | audio |
| itts | text 1, audio 1, text 2, audio 2, ... | audio and text, except the first text |
| audio | spoken audio | audio |
| dialogue | question marker, heard question, answer marker, text, spoken audio | text and audio of the answer |
| text_repeat, text_translate, text_answer | prompt, text, response | response |
| text_story | sentence 1, sentence 2, ... | all but the first sentence |

A task is a pure function `Sample -> list[Segment]`; adding one is adding a function and a line in `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from bcaudio.data.schema import Sample

PROMPTS = {"asr": "transcribe:", "s2tt.zh": "translate into chinese:", "s2tt.en": "translate into english:", "aqa": "answer:"}


@dataclass(frozen=True)
class Segment:
    """One piece of a training sequence.

    Args:
        modality: `text`; `audio`; or `special`, where `text` is a field name of SpecialIds.
        text: the text, or what the audio says.
        train: whether its tokens pay loss.
        direction: `hear` (audio_start ... audio_end) or `speak` (audiogen_start ... audiogen_end); audio only.
        codes: [T, K] int16, audio only; None until the shard is encoded.
        span: index of the span in the sample, audio only; -1 elsewhere.
    """

    modality: Literal["text", "audio", "special"]
    text: str
    train: bool = False
    direction: Literal["hear", "speak"] = "hear"
    codes: np.ndarray | None = None
    span: int = -1


def heard(sample: Sample, span: int) -> Segment:
    return _audio(sample, span, direction="hear", train=False)


def spoken(sample: Sample, span: int, train: bool = True) -> Segment:
    return _audio(sample, span, direction="speak", train=train)


def _audio(sample: Sample, span: int, direction: Literal["hear", "speak"], train: bool) -> Segment:
    codes = None if sample.codes is None else sample.span_codes(span)
    return Segment("audio", sample.spans[span].text, train=train, direction=direction, codes=codes, span=span)


def _required(sample: Sample, field: str) -> str:
    value = getattr(sample, field)
    if not value:
        raise ValueError(
            f"{sample.key}: the task needs the field '{field}', which this sample lacks; "
            "choose another task or corpus in the recipe"
        )
    return value


def asr(sample: Sample) -> list[Segment]:
    return [Segment("text", PROMPTS["asr"]), heard(sample, 0), Segment("text", sample.spans[0].text, train=True)]


def s2tt(sample: Sample) -> list[Segment]:
    prompt = PROMPTS[f"s2tt.{_required(sample, 'target_language')}"]
    return [Segment("text", prompt), heard(sample, 0), Segment("text", _required(sample, "translation"), train=True)]


def aqa(sample: Sample) -> list[Segment]:
    return [Segment("text", PROMPTS["aqa"]), heard(sample, 0), Segment("text", _required(sample, "answer"), train=True)]


def intlv(sample: Sample) -> list[Segment]:
    """Audio first, as in the paper's table; `intlv_text_first` follows its figure."""
    return [heard(sample, i) if i % 2 == 0 else Segment("text", span.text, train=True) for i, span in enumerate(sample.spans)]


def intlv_text_first(sample: Sample) -> list[Segment]:
    return [heard(sample, i) if i % 2 else Segment("text", span.text, train=i > 0) for i, span in enumerate(sample.spans)]


def intlv_continue(sample: Sample) -> list[Segment]:
    """A heard story whose last sentence is written."""
    return [*(heard(sample, i) for i in range(len(sample.spans) - 1)), Segment("text", sample.spans[-1].text, train=True)]


def intlv_audio(sample: Sample) -> list[Segment]:
    return [_paying_audio(segment) for segment in intlv(sample)]


def intlv_continue_audio(sample: Sample) -> list[Segment]:
    return [_paying_audio(segment) for segment in intlv_continue(sample)]


def _paying_audio(segment: Segment) -> Segment:
    return replace(segment, train=True) if segment.modality == "audio" else segment


def tts(sample: Sample) -> list[Segment]:
    return [Segment("text", sample.spans[0].text), spoken(sample, 0)]


def itts(sample: Sample) -> list[Segment]:
    return [part for i, span in enumerate(sample.spans) for part in (Segment("text", span.text, train=i > 0), spoken(sample, i))]


def audio(sample: Sample) -> list[Segment]:
    return [spoken(sample, i) for i in range(len(sample.spans))]


def dialogue(sample: Sample) -> list[Segment]:
    segments: list[Segment] = []
    for i, span in enumerate(sample.spans):
        if span.role == "user":
            segments += [Segment("special", "question"), heard(sample, i)]
        else:
            segments += [
                Segment("special", "audiotext_start"),
                Segment("special", "answer"),
                Segment("text", span.text, train=True),
                spoken(sample, i),
            ]
    return segments


def text_repeat(sample: Sample) -> list[Segment]:
    return [
        Segment("text", PROMPTS["asr"]),
        Segment("text", sample.text),
        Segment("special", "answer"),
        Segment("text", sample.text, train=True),
    ]


def text_translate(sample: Sample) -> list[Segment]:
    prompt = PROMPTS[f"s2tt.{_required(sample, 'target_language')}"]
    response = Segment("text", _required(sample, "translation"), train=True)
    return [Segment("text", prompt), Segment("text", sample.text), Segment("special", "answer"), response]


def text_answer(sample: Sample) -> list[Segment]:
    response = Segment("text", _required(sample, "answer"), train=True)
    return [Segment("text", PROMPTS["aqa"]), Segment("text", sample.text), Segment("special", "answer"), response]


def text_story(sample: Sample) -> list[Segment]:
    return [Segment("text", span.text, train=i > 0) for i, span in enumerate(sample.spans)]


TASKS: dict[str, Callable[[Sample], list[Segment]]] = {
    task.__name__: task
    for task in (
        asr, s2tt, aqa, intlv, intlv_text_first, intlv_continue, intlv_audio, intlv_continue_audio, tts, itts, audio, dialogue,
        text_repeat, text_translate, text_answer, text_story,
    )
}  # fmt: skip


def segments_of(task: str, sample: Sample) -> list[Segment]:
    """Segments of a sample under a task; ValueError names an unknown task and the known ones."""
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(TASKS)}")
    return TASKS[task](sample)
