"""Every row of the task table, mutated: paying for one segment more or less is seen in the labels, there and nowhere else."""

from dataclasses import replace

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.data.sequence import IGNORE, SequenceBuilder
from bcaudio.data.tasks import TASKS, Segment, segments_of
from bcaudio.text.tokenizer import TextTokenizer


def sample_of(task: str) -> Sample:
    """Three spans, or a question and its answer, of unlike lengths."""
    roles = ("user", "assistant") if task == "dialogue" else ("narrator",) * 3
    texts = ("one", "two two", "three three three")[: len(roles)]
    spans = tuple(Span(text, float(i), i + 0.5, role) for i, (text, role) in enumerate(zip(texts, roles, strict=True)))
    lengths = (2, 3, 4)[: len(roles)]
    codes = np.arange(2 * sum(lengths), dtype=np.int16).reshape(-1, 2) % 4
    return Sample("s-0", "stories", "test", "en", "m1", " ".join(texts), spans, translation="four", target_language="zh",
                  answer="two", duration_s=float(len(roles)), span_num_codes=lengths, codes=codes)  # fmt: skip


def mutants() -> list[tuple[str, int]]:
    """(task, segment) of every segment that can pay."""
    return [
        (task, i)
        for task in TASKS
        for i, segment in enumerate(segments_of(task, sample_of(task)))
        if segment.modality != "special"
    ]


def length(builder: SequenceBuilder, segments: list[Segment]) -> int:
    """Tokens before the end of the text."""
    return len(builder.sequence(segments)) - 1 if segments else 0


@pytest.mark.parametrize(("task", "at"), mutants(), ids=lambda value: str(value))
def test_a_mutated_row_of_the_table_is_seen_in_the_labels(text_tokenizer: TextTokenizer, task: str, at: int) -> None:
    builder = SequenceBuilder(text_tokenizer, codebook_sizes=[4, 4])
    segments = segments_of(task, sample_of(task))
    mutant = [replace(one, train=not one.train) if i == at else one for i, one in enumerate(segments)]
    right, wrong = builder.sequence(segments), builder.sequence(mutant)
    np.testing.assert_array_equal(right.input_ids, wrong.input_ids)  # what is read stays
    text, audio = right.labels != wrong.labels, (right.audio_labels != wrong.audio_labels).any(axis=1)
    start, end = length(builder, segments[:at]), length(builder, segments[: at + 1])
    changed = np.flatnonzero(text | audio)
    if (at, start) == (0, 0) and segments[0].modality == "text" and end == 1:
        assert not len(changed)  # the first token of a document is never predicted
        return
    assert len(changed)
    # the token before predicts the first one; the end of the text belongs to the last segment
    assert start - 1 <= changed.min() <= changed.max() <= (end if at == len(segments) - 1 else end - 1)
    assert audio.any() == (segments[at].modality == "audio")
    paid, mutated = (
        (int((made.labels != IGNORE).sum()), int((made.audio_labels[:, 0] != IGNORE).sum())) for made in (right, wrong)
    )
    assert builder.measure(segments)[1:] == paid
    assert builder.measure(mutant)[1:] == mutated
    assert paid != mutated
