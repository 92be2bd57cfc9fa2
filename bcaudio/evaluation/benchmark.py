"""What a benchmark is: items of a corpus, questions to a system, and a score that needs only the stored outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bcaudio.audio.io import write_audio
from bcaudio.data.index import ShardIndex
from bcaudio.inference.item import Item, ItemError, NotRunError
from bcaudio.metrics.counting import CountingMetric
from bcaudio.text.normalize import DEFAULT, Normalizer, normalizer

Output = dict[str, Any]
Result = dict[str, Any]


__all__ = ["Item", "ItemError", "NotRunError"]  # of the room below, named here for the benchmarks


@dataclass(frozen=True)
class Scoring:
    """How outputs are scored: whatever could change a number without the outputs changing.

    Args:
        normalizer: the form in which texts are compared.
        judge: in place of the benchmark's own; None keeps that.
    """

    normalizer: Normalizer = field(default_factory=lambda: normalizer(DEFAULT))
    judge: Any = None


@dataclass(frozen=True)
class Absent:
    """A figure that cannot be given, and why."""

    note: str


class Corpus(Protocol):
    """Where items come from: shards, or files in the layout in which somebody published them."""

    def items(self, where: str) -> list[Item]:
        """The items, in an order that never changes; `where` names the asking benchmark in errors.

        Raises:
            FileNotFoundError: not on this machine; the message says where it is published and how it must lie.
            ValueError: it is there, but nothing of it fits.
        """


@dataclass(frozen=True)
class Shards:
    """Which samples of which shards a benchmark takes.

    Args:
        paths: tar files or globs.
        language, target_language, corpus: keep only these; None keeps all.
        limit: at most so many, spread evenly over what is left; None takes all.
        split: `test` unless one asks for something else on purpose; None keeps all.
    """

    paths: tuple[str, ...]
    language: str | None = None
    target_language: str | None = None
    corpus: str | None = None
    limit: int | None = None
    split: str | None = "test"

    def items(self, where: str) -> list[Item]:
        """The items; FileNotFoundError without shards, ValueError naming `where` if the filters leave nothing."""
        index = ShardIndex(list(self.paths))
        filters = {"language": self.language, "corpus": self.corpus, "split": self.split}
        kept = np.flatnonzero(index.where(**{key: value for key, value in filters.items() if value is not None}))
        fields = {"codes_fingerprint": index.fingerprint}
        items = [Item(index.sample(i), partial(index.waveform, i), fields) for i in kept.tolist()]
        items = [item for item in items if self.target_language in (None, item.sample.target_language)]
        if not items:
            filters["target_language"] = self.target_language
            raise ValueError(
                f"{where}: none of the {len(index)} samples of {', '.join(self.paths)} has "
                f"{', '.join(f'{key}={value}' for key, value in filters.items() if value is not None)}; "
                "correct the benchmark's shards or filters"
            )
        return thin(items, self.limit)


def thin(items: list[Item], limit: int | None) -> list[Item]:
    """At most `limit` of the items, spread evenly, always the same ones."""
    if not limit or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


class Examples:
    """A few sounds and spectrograms for the report, written under `folder` while a benchmark asks.

    Args:
        folder: where the files go; names are stored relative to its parent `root`.
        root: the folder of `examples.json`.
        limit: how many of each kind are kept; further ones are passed over.
    """

    def __init__(self, folder: Path, root: Path, limit: int = 4) -> None:
        self.folder, self.root, self.limit = folder, root, limit
        self.found: dict[str, list[dict[str, Any]]] = {"audio": [], "mels": []}

    def save(self, key: str, name: str, waveform: np.ndarray, sample_rate: int) -> str:
        """Writes a sound, float32 [N], however many there are already; its path relative to `root`."""
        path = self.folder / f"{re.sub('[^A-Za-z0-9_-]', '_', key)}-{name}.flac"
        write_audio(path, waveform, sample_rate)
        return str(path.relative_to(self.root))

    def audio(
        self, key: str, title: str, text: str, heard: str, expected: str, players: Mapping[str, tuple[np.ndarray, int]]
    ) -> None:
        """Sounds by name: (float32 [N], sample rate in Hz)."""
        if len(self.found["audio"]) >= self.limit:
            return
        files = []
        for number, (name, (waveform, sample_rate)) in enumerate(players.items()):
            files.append({"name": name, "file": self.save(key, str(number), waveform, sample_rate)})
        self.found["audio"].append(
            {"key": key, "title": title, "text": text, "heard": heard, "expected": expected, "players": files}
        )

    def mels(self, key: str, title: str, panels: Mapping[str, np.ndarray]) -> None:
        """Spectrograms by name, [F, n_mels] each; the first is the reference."""
        if len(self.found["mels"]) >= self.limit:
            return
        files = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for number, (name, mel) in enumerate(panels.items()):
            path = self.folder / f"{key}-{number}.npy"
            np.save(path, mel.astype(np.float32))
            files.append({"name": name, "file": str(path.relative_to(self.root))})
        self.found["mels"].append({"key": key, "title": title, "panels": files})


class Benchmark(Protocol):
    """One family of questions.

    `audio_llm` is the stage folder of the audio LLM that is asked (None: the system's own); `batch_size` is how many items go
    into one `ask`.
    """

    audio_llm: str | None
    batch_size: int

    def items(self) -> list[Item]:
        """What is asked; FileNotFoundError where the shards are not on this machine."""

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        """JSON-able outputs, one or more per item, each with its `id` and everything that `score` needs.

        Raises:
            NotRunError: the system lacks a part.
            ItemError: one of the items cannot be asked; the caller asks the others again without it.
        """

    def score(self, outputs: Sequence[Output], scoring: Scoring = Scoring()) -> Mapping[str, CountingMetric | Absent]:
        """Filled metrics by dotted key; outputs of failed items (those with an `error`) are not among `outputs`."""


def result(metric: CountingMetric) -> Result:
    """`value` and the counts of a metric."""
    report = metric.report()
    return {"value": report.pop(metric.name), **report}


@dataclass(frozen=True)
class Limited:
    """At most `limit` items of a corpus, spread evenly."""

    corpus: Corpus
    limit: int | None

    def items(self, where: str) -> list[Item]:
        """The items that are kept."""
        return thin(self.corpus.items(where), self.limit)


def corpus_of(shards: str | Sequence[str] | None, data: Corpus | None, limit: int | None = None, **filters: Any) -> Corpus:
    """What a recipe gives a benchmark: `shards` (a path or a list of them, with filters) or `data`.

    Raises:
        ValueError: both or none are given.
    """
    if (shards is None) == (data is None):
        raise ValueError("give either shards (tar files) or data (a corpus of bcaudio.evaluation.corpora)")
    if data is not None:
        return Limited(data, limit)
    return as_shards(shards or (), limit=limit, **filters)


def as_shards(shards: str | Sequence[str], **filters: Any) -> Shards:
    """Shards from a recipe's path or list of paths."""
    return Shards(paths=(shards,) if isinstance(shards, str) else tuple(shards), **filters)


def write_outputs(path: Path, outputs: Sequence[Output]) -> None:
    """Writes JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(output, ensure_ascii=False) + "\n" for output in outputs), encoding="utf-8")
    part.replace(path)


def read_outputs(path: Path) -> list[Output]:
    """Reads JSON lines; ValueError naming the file and line that cannot be read."""
    outputs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            outputs.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: cannot be read ({error}); delete the file to ask again") from error
    return outputs
