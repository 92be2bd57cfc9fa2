"""Small shards and a system whose answers are set by hand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.evaluation.benchmark import Examples


def make_sample(key: str, text: str, language: str = "en", roles: Sequence[str] = ("narrator",), **fields: Any) -> Sample:
    texts = text.split("|")
    step = 0.5 / len(texts)
    spans = tuple(Span(part, i * step, (i + 1) * step, role) for i, (part, role) in enumerate(zip(texts, roles, strict=True)))
    given = {"corpus": "numbers", "split": "test", "speaker": "v1", "duration_s": 0.5, **fields}
    return Sample(key=key, language=language, text=" ".join(texts), spans=spans, **given)


@pytest.fixture
def sample() -> Callable[..., Sample]:
    return make_sample


@pytest.fixture
def shards(tmp_path: Path) -> Callable[[list[Sample]], str]:
    """Writes samples with half a second of sound whose level is 0.1, 0.2, ...; gives the glob of the tars."""

    def write(samples: list[Sample]) -> str:
        pairs = [(sample, np.full(12000, 0.1 * (i + 1), dtype=np.float32)) for i, sample in enumerate(samples)]
        write_shards(pairs, tmp_path / "shards", "numbers-test", 100, {})
        return str(tmp_path / "shards" / "*.tar")

    return write


class FakeAuditor(torch.nn.Module):
    """Hears the words that `table` gives for the mean of a clip, in tenths."""

    def __init__(self, table: dict[int, str]) -> None:
        super().__init__()
        self.table, self.anchor = table, torch.nn.Parameter(torch.zeros(1))

    def transcribe(self, waveforms: torch.Tensor, lengths: torch.Tensor) -> list[list[str]]:
        levels = [round(float(row[:length].mean()) * 10) for row, length in zip(waveforms, lengths.tolist(), strict=True)]
        return [self.table[level].split() for level in levels]


@dataclass
class FakeSystem:
    """texts: key -> answer; levels: key -> loudness of what it speaks, in tenths; scores: key -> (right, wrong)."""

    texts: dict[str, str] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    scores: dict[str, tuple[float, float]] = field(default_factory=dict)
    heard: dict[int, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    flow_decoder: Any = None
    vocoder: Any = None

    def __post_init__(self) -> None:
        self.auditor = FakeAuditor(self.heard) if self.heard else None

    def use_audio_llm(self, folder: str) -> None:
        self.asked.append(("use_audio_llm", folder))

    def answer_text(self, samples: Sequence[Sample], task: str) -> list[str]:
        self.asked += [(task, sample.key) for sample in samples]
        return [self.texts[sample.key] for sample in samples]

    def answer_text_from_text(self, samples: Sequence[Sample], task: str) -> list[str]:
        self.asked += [(f"text {task}", sample.key) for sample in samples]
        return [self.texts[sample.key] for sample in samples]

    def speak(self, samples: Sequence[Sample], task: str) -> list[Any]:
        self.asked += [(task, sample.key) for sample in samples]
        waves = [np.full(12000, 0.1 * self.levels[sample.key], dtype=np.float32) for sample in samples]
        return [
            SimpleNamespace(text=self.texts.get(sample.key, ""), codes=None, waveform=wave)
            for sample, wave in zip(samples, waves, strict=True)
        ]

    def reconstruct(self, clips: Sequence[tuple[Sample, np.ndarray]], num_levels: int, with_waveform: bool = False) -> list[Any]:
        made = []
        for _, wave in clips:
            assert len(wave) == 8000  # half a second at 16 kHz
            target = np.full((50, 4), 1.0, dtype=np.float32)
            sound = np.repeat(wave, 3)[::2] if with_waveform else None
            made.append(
                SimpleNamespace(target_mel=target, coarse_mel=target + 1.0, refined_mel=target - 1 / num_levels, waveform=sound)
            )
        return made

    def choice_scores(self, samples: Sequence[Sample], mode: str) -> list[tuple[float, float]]:
        return [self.scores[sample.key] for sample in samples]


@pytest.fixture
def fake_system() -> type[FakeSystem]:
    return FakeSystem


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return Examples(tmp_path / "out" / "outputs" / "x.examples", tmp_path / "out", limit=2)
