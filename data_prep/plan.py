"""The plan of a pipeline: all corpora listed, cut into chunks of utterances, a file of JSON lines for each shard to be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.data.shards import shard_path
from bcaudio.recipe.errors import naming_full_disk
from bcaudio.recipe.record import write_atomic
from bcaudio.text.normalize import units
from data_prep.utterance import CorpusUnavailable, Listing, Source, Utterance


@dataclass(frozen=True)
class Chunk:
    """The utterances of one shard to be: its name, their file in `plan/`, its hash, and a hash of every key, int64 [N]."""

    name: str
    path: Path
    sha256: str
    keys: np.ndarray = field(compare=False, repr=False)


def plan(corpora: Sequence[Source], seed: int, out: Path, scratch: Path) -> tuple[list[Chunk], dict[str, Any]]:
    """List all corpora into `out/plan/`, a file per shard; one utterance is in memory at a time where the source streams.

    Of utterances with one key the first stays, wherever they are; the others count as `duplicate key`.

    Returns:
        The chunks in their order, and what the record says of the listing: `dropped` per corpus, `left_out`, `num_texts`.
    """
    folder = out / "plan"
    folder.mkdir(exist_ok=True)
    chunks: list[Chunk] = []
    dropped: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    words: set[str] = set()
    num_texts = 0
    with naming_full_disk(out), open(out / "text.txt.tmp", "w", encoding="utf-8") as texts:
        for source in corpora:
            counts: Counter[str] = Counter()
            writers: dict[str, ChunkWriter] = {}
            try:
                for utterance in _utterances(source, seed, scratch, counts):
                    writer = writers.setdefault(utterance.split, ChunkWriter(folder, source, utterance.split))
                    writer.add(utterance)
                    if source.for_tokenizer and utterance.split == "train":
                        for text in filter(None, (utterance.text, utterance.translation, utterance.answer)):
                            texts.write(text + "\n")
                            words.update(units(text, "zh"))
                            num_texts += 1
            except CorpusUnavailable as reason:
                left_out[source.corpus] = str(reason)
                print(f"WARNING: {reason}", file=sys.stderr)
                continue
            chunks.extend(chain.from_iterable(writers[split].close() for split in sorted(writers, reverse=True)))
            if counts:
                dropped[source.corpus] = dict(counts)
    chunks = _without_duplicate_keys(chunks, dropped)
    for path in set(folder.glob("*.jsonl")) - {chunk.path for chunk in chunks}:
        path.unlink()  # of a recipe of before
    (out / "text.txt.tmp").replace(out / "text.txt")
    write_atomic(out / "units.json", json.dumps(sorted(words), ensure_ascii=False))
    return chunks, {"dropped_when_listed": dropped, "left_out": left_out, "num_texts": num_texts}


def _utterances(source: Source, seed: int, scratch: Path, counts: Counter[str]) -> Iterator[Utterance]:
    if hasattr(source, "utterances"):
        yield from source.utterances(counts)
        return
    listing: Listing = source.list_utterances(seed, scratch)
    counts.update(listing.dropped)
    yield from listing.utterances


class ChunkWriter:
    """Utterances of one corpus and split -> chunks of `samples_per_shard`, a line of JSON each, without what is default."""

    def __init__(self, folder: Path, source: Source, split: str) -> None:
        self.folder, self.name, self.size = folder, f"{source.corpus}-{split}", source.samples_per_shard
        self.lines: list[str] = []
        self.keys: list[int] = []
        self.chunks: list[Chunk] = []

    def add(self, utterance: Utterance) -> None:
        """Append one utterance."""
        self.lines.append(to_line(utterance))
        self.keys.append(hash(utterance.key))
        if len(self.lines) == self.size:
            self._write()

    def close(self) -> list[Chunk]:
        """Write the last chunk and give all of them."""
        if self.lines:
            self._write()
        return self.chunks

    def _write(self) -> None:
        name = Path(shard_path("", self.name, len(self.chunks))).stem
        self.chunks.append(_write_chunk(name, self.folder / f"{name}.jsonl", self.lines, self.keys))
        self.lines, self.keys = [], []


def _write_chunk(name: str, path: Path, lines: Sequence[str], keys: Sequence[int] | np.ndarray) -> Chunk:
    text = "".join(lines)
    write_atomic(path, text)
    return Chunk(name, path, hashlib.sha256(text.encode()).hexdigest(), np.array(keys, np.int64))


def _without_duplicate_keys(chunks: list[Chunk], dropped: dict[str, dict[str, int]]) -> list[Chunk]:
    """The chunks without the later ones of equal keys; those that hold any are written anew, the others not even opened."""
    ordered = np.sort(np.concatenate([chunk.keys for chunk in chunks])) if chunks else np.zeros(0, np.int64)
    suspects = ordered[1:][ordered[1:] == ordered[:-1]]
    seen: set[str] = set()
    kept: list[Chunk] = []
    for chunk in chunks if len(suspects) else ():
        suspect = np.isin(chunk.keys, suspects)
        if suspect.any():
            with open(chunk.path, encoding="utf-8") as file:
                lines = list(file)
            twice = set()
            for number in np.flatnonzero(suspect):
                utterance = json.loads(lines[number])
                if utterance["key"] in seen:  # hashes may agree by chance
                    twice.add(number)
                    counts = dropped.setdefault(utterance["corpus"], {})
                    counts["duplicate key"] = counts.get("duplicate key", 0) + 1
                seen.add(utterance["key"])
            left = [number for number in range(len(lines)) if number not in twice]
            if not left:
                continue
            chunk = _write_chunk(chunk.name, chunk.path, [lines[i] for i in left], chunk.keys[left])
        kept.append(chunk)
    return kept if len(suspects) else chunks


_DEFAULTS = {f.name: f.default for f in dataclasses.fields(Utterance)}


def to_line(utterance: Utterance) -> str:
    """One line of JSON; `data_prep.task.from_line` reads it."""
    fields = {name: value for name, value in vars(utterance).items() if name != "parts" and value != _DEFAULTS[name]}
    parts = [
        [part.text, part.role, *([] if part.timbre is None else [list(vars(part.timbre).values())])] for part in utterance.parts
    ]
    return json.dumps({**fields, "parts": parts}, ensure_ascii=False) + "\n"
