from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.data.tasks import segments_of
from data_prep.steps.interleave import Interleave
from data_prep.utterance import Clip, Drops, Part, Utterance


def _clip(number: int, num_parts: int = 8, roles: tuple[str, ...] = ("narrator",)) -> Clip:
    parts = tuple(Part(f"s{i}.", roles[i % len(roles)]) for i in range(num_parts))
    utterance = Utterance(f"k-{number}", "talks", "train", "en", parts, " ".join(part.text for part in parts))
    spans = tuple((float(i), float(i + 1)) for i in range(num_parts))
    return Clip(utterance, np.zeros(num_parts * 100, np.float32), 100, (), spans)


def _run(step: Interleave, clips: list[Clip]) -> tuple[list[Clip], Drops]:
    drops = Drops()
    return list(step(iter(clips), drops)), drops


def test_kinds_follow_the_ratio_and_the_key_alone() -> None:
    step = Interleave({"itts": 1, "intlv": 2, "intlv_text_first": 1})
    kept, drops = _run(step, [_clip(i) for i in range(2000)])
    counts = Counter(clip.measures["interleave"] for clip in kept)
    assert len(kept) == 2000
    assert not drops
    assert counts["itts"] == pytest.approx(500, abs=70)  # 3.6 standard deviations
    assert counts["intlv"] == pytest.approx(1000, abs=80)
    [alone], _ = _run(step, [_clip(1234)])
    assert (alone.utterance, alone.spans) == (kept[1234].utterance, kept[1234].spans)


@pytest.mark.parametrize(("kind", "first"), [("itts", "text"), ("intlv", "audio"), ("intlv_text_first", "text")])
def test_the_task_of_the_corpus_reads_alternating_spans(kind: str, first: str) -> None:
    [clip], _ = _run(Interleave({kind: 1}), [_clip(7)])
    utterance = clip.utterance
    assert utterance.corpus == f"talks_{kind}"
    spans = tuple(Span(part.text, *times, part.role) for part, times in zip(utterance.parts, clip.spans, strict=True))
    sample = Sample(utterance.key, utterance.corpus, "train", "en", "", utterance.text, spans, duration_s=8.0)
    segments = segments_of(kind, sample)
    assert segments[0].modality == first
    assert all(a.modality != b.modality for a, b in pairwise(segments))
    said = " ".join(segment.text for segment in segments if kind != "itts" or segment.modality == "text")
    assert said == utterance.text


def test_lengths_of_heard_and_written_spans_are_those_asked_for() -> None:
    step = Interleave({"intlv": 1}, audio_parts=(1, 1), text_parts=(3, 3))
    [clip], _ = _run(step, [_clip(0)])
    assert clip.spans == ((0.0, 1.0), (1.0, 4.0), (4.0, 5.0), (5.0, 8.0))
    assert [part.text for part in clip.utterance.parts] == ["s0.", "s1. s2. s3.", "s4.", "s5. s6. s7."]
    [other], _ = _run(Interleave({"intlv_text_first": 1}, audio_parts=(1, 1), text_parts=(3, 3)), [_clip(0)])
    assert other.spans == ((0.0, 3.0), (3.0, 4.0), (4.0, 7.0), (7.0, 8.0))


def test_joining_stops_at_the_greatest_length_at_another_role_and_before_spans_run_out() -> None:
    [clip], _ = _run(Interleave({"itts": 1}, audio_parts=(5, 5), max_span_s=2.0), [_clip(0)])
    assert {end - start for start, end in clip.spans} == {2.0}
    [clip], _ = _run(Interleave({"itts": 1}, audio_parts=(5, 5)), [_clip(0, 4, ("user", "assistant"))])
    assert len(clip.spans) == 4
    [clip], _ = _run(Interleave({"itts": 1}, audio_parts=(5, 5), min_spans=3), [_clip(0, 4)])
    assert clip.spans == ((0.0, 2.0), (2.0, 3.0), (3.0, 4.0))


def test_a_clip_of_one_part_is_dropped_or_kept_as_it_was() -> None:
    kept, drops = _run(Interleave(), [_clip(0, 1)])
    assert kept == []
    assert [(d.reason, d.value, d.duration_s) for d in drops] == [("too few segments", 1, 1.0)]
    clip = _clip(0, 1)
    assert _run(Interleave(keep_short=True), [clip]) == ([clip], [])


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="'tts'"):
        Interleave({"tts": 1})
    with pytest.raises(ValueError, match="not all 0"):
        Interleave({"itts": 0})
    with pytest.raises(ValueError, match=r"text_parts is \[2, 1\]"):
        Interleave(text_parts=[2, 1])
