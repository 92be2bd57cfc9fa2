"""Small shards and a system whose answers are set by hand."""

import json
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
from bcaudio.evaluation.benchmark import Absent, Examples, Item, Scoring, result


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
    """A system that takes items and whose answers are set by hand; `asked` is what it was asked, in order.

    texts: id -> answer; levels: id -> loudness of what it speaks, in tenths; scores: id -> log-likelihoods of the endings;
    generated: prompt -> what follows; likelihoods: text -> (nats, tokens, bytes); heard: loudness -> what the auditor writes.
    """

    texts: dict[str, str] = field(default_factory=dict)
    levels: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Sequence[float]] = field(default_factory=dict)
    generated: dict[str, str] = field(default_factory=dict)
    likelihoods: dict[str, tuple[float, int, int]] = field(default_factory=dict)
    heard: dict[int, str] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    flow_decoder: Any = None
    vocoder: Any = None
    description: dict[str, Any] = field(default_factory=lambda: {"name": "fake"})

    def __post_init__(self) -> None:
        self.auditor = FakeAuditor(self.heard) if self.heard else None

    def use_audio_llm(self, folder: str) -> None:
        self.asked.append(("use_audio_llm", folder))

    def _ask(self, what: str, items: Sequence[Item]) -> None:
        assert not any(item.problem for item in items), "an item with a problem is never asked"
        self.asked += [(what, item.id) for item in items]

    def answer_text(self, items: Sequence[Item], task: str) -> list[str]:
        self._ask(task, items)
        return [self.texts[item.id] for item in items]

    def answer_text_from_text(self, items: Sequence[Item], task: str) -> list[str]:
        self._ask(f"text {task}", items)
        return [self.texts[item.id] for item in items]

    def generate_from_text(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        self.asked += [("generate", prompt) for prompt in prompts]
        return [self.generated[prompt] for prompt in prompts]

    def log_likelihoods(self, texts: Sequence[str], max_tokens: int) -> list[tuple[float, int, int]]:
        self.asked += [("log_likelihoods", text) for text in texts]
        return [self.likelihoods[text] for text in texts]

    def speak(self, items: Sequence[Item], task: str) -> list[Any]:
        self._ask(task, items)
        waves = [np.full(12000, 0.1 * self.levels[item.id], dtype=np.float32) for item in items]
        return [
            SimpleNamespace(text=self.texts.get(item.id, ""), codes=np.zeros((6, 8), dtype=np.int64), waveform=wave)
            for item, wave in zip(items, waves, strict=True)
        ]

    def reconstruct(self, items: Sequence[Item], num_levels: int, with_waveform: bool = False) -> list[Any]:
        made = []
        for item in items:
            wave = item.waveform(16000)
            assert len(wave) == 8000  # half a second at 16 kHz
            target = np.full((50, 4), 1.0, dtype=np.float32)
            sound = np.repeat(wave, 3)[::2] if with_waveform else None
            made.append(
                SimpleNamespace(target_mel=target, coarse_mel=target + 1.0, refined_mel=target - 1 / num_levels, waveform=sound)
            )
        return made

    def choice_scores(self, items: Sequence[Item], mode: str) -> list[Sequence[float]]:
        self._ask(f"choice {mode}", items)
        return [self.scores[item.id] for item in items]


@pytest.fixture
def fake_system() -> type[FakeSystem]:
    return FakeSystem


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    return Examples(tmp_path / "out" / "outputs" / "x.examples", tmp_path / "out", limit=2)


def run(benchmark: Any, system: Any, examples: Examples, scoring: Scoring | None = None) -> dict[str, dict[str, Any]]:
    """Items without a problem -> outputs -> through JSON, as they are stored -> results, Absent as None and its note."""
    items = [item for item in benchmark.items() if not item.problem]
    outputs = json.loads(json.dumps(benchmark.ask(system, items, examples)))
    metrics = benchmark.score(outputs, *([scoring] if scoring else []))
    return {
        key: {"value": None, "note": metric.note} if isinstance(metric, Absent) else result(metric)
        for key, metric in metrics.items()
    }


@pytest.fixture
def ask_and_score() -> Callable[..., dict[str, dict[str, Any]]]:
    return run


class ListCorpus:
    """Items as they are given."""

    def __init__(self, *items: Item) -> None:
        self.given = list(items)

    def items(self, where: str) -> list[Item]:
        return self.given


@pytest.fixture
def corpus() -> type[ListCorpus]:
    return ListCorpus
