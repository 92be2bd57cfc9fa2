"""An utterance becomes a sample with its waveform."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import SAMPLE_RATE
from data_prep.steps.read import SLACK_S, read_recording
from data_prep.steps.synthesize import MARGIN_S, synthesize
from data_prep.utterance import Rejected, Utterance

_COPIED = (
    "key",
    "corpus",
    "split",
    "language",
    "speaker",
    "text",
    "translation",
    "target_language",
    "answer",
    "source",
    "licence",
)
PAUSE_S = (0.12, 0.25)  # between two spans, their margins included


def make_clip(utterance: Utterance, scratch: Path, max_duration_s: float) -> tuple[Sample, np.ndarray | None]:
    """Synthesise or read one utterance; a pure function of its arguments and the recording.

    Every span is spoken on its own and joined with a pause, so the times of the spans are exact, and so are espeak-ng's words.

    Returns:
        The sample and float32 [N] at 24 kHz, or None for text only.

    Raises:
        Rejected: empty, unreadable, longer than `max_duration_s`, of another length than stated, or synthesis failed.
    """
    waveform: np.ndarray | None = None
    words: list[tuple[str, float, float]] = []
    spans = [Span(part.text, 0.0, 0.0, part.role) for part in utterance.parts]
    if utterance.audio is not None:
        waveform = _recorded(utterance, scratch, max_duration_s)
        spans = [Span(utterance.text, 0.0, len(waveform) / SAMPLE_RATE, utterance.parts[0].role)]
    elif any(part.timbre for part in utterance.parts):
        waveform, spans, words = _spoken(utterance)
    duration_s = 0.0 if waveform is None else len(waveform) / SAMPLE_RATE
    if duration_s > max_duration_s:
        raise Rejected("too long", round(duration_s, 2), duration_s)
    fields = {field: getattr(utterance, field) for field in _COPIED}
    return Sample(**fields, spans=tuple(spans), duration_s=duration_s, words=tuple(words)), waveform


def _recorded(utterance: Utterance, scratch: Path, max_duration_s: float) -> np.ndarray:
    assert utterance.audio is not None
    waveform = read_recording(utterance.audio, scratch, utterance.start_s, utterance.end_s, SAMPLE_RATE, max_duration_s)
    if np.abs(waveform).max() < 1e-4:
        raise Rejected("empty", f"peak {np.abs(waveform).max():.1e}", len(waveform) / SAMPLE_RATE)
    found_s, stated_s = len(waveform) / SAMPLE_RATE, utterance.duration_s
    if stated_s is not None and abs(found_s - stated_s) > SLACK_S + 0.02 * stated_s:
        raise Rejected("wrong length", f"{found_s:.3f} s, but its source states {stated_s} s", found_s)
    return waveform


def _spoken(utterance: Utterance) -> tuple[np.ndarray, list[Span], list[tuple[str, float, float]]]:
    rng = random.Random(utterance.key)
    pieces: list[np.ndarray] = []
    spans: list[Span] = []
    words: list[tuple[str, float, float]] = []
    position = 0
    for part in utterance.parts:
        if part.timbre is None:
            raise Rejected("synthesis failed", f"span {part.text!r} has no timbre")
        if pieces:
            pause = round((rng.uniform(*PAUSE_S) - 2 * MARGIN_S) * SAMPLE_RATE)
            pieces.append(np.zeros(pause, np.float32))
            position += pause
        speech, start_s = synthesize(part.text, utterance.language, part.timbre), position / SAMPLE_RATE
        pieces.append(speech.waveform)
        position += len(speech.waveform)
        spans.append(Span(part.text, start_s, position / SAMPLE_RATE, part.role))
        words += [(word.text, round(start_s + word.start_s, 4), round(start_s + word.end_s, 4)) for word in speech.words]
    return np.concatenate(pieces), spans, words
