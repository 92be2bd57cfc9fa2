"""A tiny corpus in its published layout, made by the test that reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcaudio.data.schema import Sample, Span
from data_prep.steps.read import read_recording
from data_prep.utterance import CorpusSource, Utterance

RATE = 16_000
_IN_SAMPLE = (
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


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Writes noise (or, in a lossy format, a tone) below `tmp_path` and returns the samples that a reader must give back."""

    def make(name: str, duration_s: float = 0.5, seed: int = 0) -> np.ndarray:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).integers(-9000, 9000, round(duration_s * RATE)).astype(np.int16)
        if path.suffix in (".mp3", ".opus"):
            samples = (9000 * np.sin(2 * np.pi * 220 * np.arange(len(samples)) / RATE)).astype(np.int16)
        if path.suffix == ".opus":
            soundfile.write(path, samples, RATE, format="OGG", subtype="OPUS")
        else:
            soundfile.write(path, samples, RATE)
        return samples.astype(np.float32) / 32768

    return make


@pytest.fixture
def listed() -> Callable[[CorpusSource], tuple[list[Utterance], dict[str, int]]]:
    """All utterances of a source and what it dropped; each must make a valid sample, keys differ, a second pass is the same."""

    def listed(source: CorpusSource) -> tuple[list[Utterance], dict[str, int]]:
        dropped: Counter[str] = Counter()
        utterances = list(source.utterances(dropped))
        assert len({u.key for u in utterances}) == len(utterances)
        for u in utterances:
            assert u.key.startswith(f"{source.corpus}-{u.split}-")
            spans = tuple(Span(part.text, 0.0, 0.0, part.role) for part in u.parts)
            Sample(**{name: getattr(u, name) for name in _IN_SAMPLE}, spans=spans)
        assert list(source.utterances(Counter())) == utterances
        return utterances, dict(dropped)

    return listed


@pytest.fixture
def told() -> Callable[..., list[tuple[object, ...]]]:
    """The named fields of every utterance."""
    return lambda utterances, *names: [tuple(getattr(u, name) for name in names) for u in utterances]


@pytest.fixture
def waveform() -> Callable[[Utterance], np.ndarray]:
    """What the pipeline reads for an utterance, at 16 kHz."""

    def waveform(utterance: Utterance) -> np.ndarray:
        assert utterance.audio is not None
        return read_recording(utterance.audio, Path("/nowhere"), utterance.start_s, utterance.end_s, RATE)

    return waveform


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text below `tmp_path`."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
