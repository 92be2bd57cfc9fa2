"""Contamination: which items of a benchmark lie in the shards that a model was trained on, and the score without them."""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from bcaudio.audio.fingerprint import NAME, RATE, Contents, fingerprint
from bcaudio.data.index import ShardIndex, expand_paths
from bcaudio.data.index_file import KINDS, Columns, open_index
from bcaudio.data.storage import Place
from bcaudio.evaluation.bootstrap import confidence_interval
from bcaudio.inference.item import Item, ItemError
from bcaudio.metrics.counting import CountingMetric
from bcaudio.recipe.load import load_recipe
from bcaudio.text.normalize import DEFAULT, Normalizer, covers, normalizer
from bcaudio.text.quotes import Quotes

TEXT_UNITS = 8
MIN_SHARE = 0.35  # of an item's landmarks; unrelated recordings stay near 0
PROGRESS_S = 5.0


@dataclass(frozen=True)
class Leak:
    """Where an item was seen in training.

    Args:
        kind: its sound, or only its text.
        training_key: of the training sample.
        shard: the tar of that sample.
        share: of the item's landmarks that the training sample has at one shift; 1.0 for a text.
    """

    kind: Literal["audio", "text"]
    training_key: str
    shard: str
    share: float


def find_leaks(
    items: Sequence[Item],
    training: Sequence[str],
    text_units: int = TEXT_UNITS,
    audio: bool = True,
    normalizer: Normalizer = normalizer(DEFAULT),  # noqa: B008 - has no state
    min_share: float = MIN_SHARE,
    cache: Path | None = None,
) -> dict[str, Leak]:
    """The items whose sound or text lies in a training sample, by id; of several finds the sound with the largest share.

    Every shard is read once, one sample at a time, so memory grows with the items alone. Shards with the same clips (those of
    which one is the other with codes) are heard once. A line is printed every few seconds.

    Args:
        items: of any benchmarks; an item without sound is compared by its text, one whose sound cannot be read too.
        training: tar files, URLs or globs (`training_shards`).
        text_units: a text of so many words or hanzi leaks where it occurs in a training text in one run; a shorter one only
            where it is the whole training text.
        audio: compare sounds too.
        normalizer: the form in which texts are compared.
        min_share: of an item's landmarks that must be found together.
        cache: folder for the fingerprints of the training shards, one file per shard, named by its SHA-256; None keeps none.

    Raises:
        FileNotFoundError: a path of `training` matches nothing on this machine.
        ValueError: no path; text_units below 1 or min_share outside (0, 1]; a shard that cannot be read.
    """
    if text_units < 1 or not 0 < min_share <= 1:
        raise ValueError(f"find_leaks: text_units {text_units} must be at least 1 and min_share {min_share} lie in (0, 1]")
    tars = expand_paths(training)
    texts, sounds = _texts(items, text_units, normalizer), _sounds(items) if audio else Contents()
    leaks: dict[str, Leak] = {}
    heard: set[bytes] = set()
    progress = _Progress(len(tars))
    for tar in tars:
        index, columns, marks = ShardIndex(tar), open_index(tar).columns(), iter(())
        has_sound = columns.records["size"][:, KINDS.index("flac")] > 0
        if len(sounds) and has_sound.any() and (clips := _clips(columns, has_sound)) not in heard:
            heard.add(clips)
            marks = _marks(index, has_sound, tar, cache)
        for i in range(len(index)):
            sample, around = index.sample(i), next(marks, None)
            for id in texts.found(_units(sample.text, sample.language, normalizer)):
                leaks.setdefault(id, Leak("text", sample.key, str(tar), 1.0))
            for id, share in sounds.found(around) if around is not None else ():
                if share >= min_share and (id not in leaks or leaks[id].kind == "text" or leaks[id].share < share):
                    leaks[id] = Leak("audio", sample.key, str(tar), share)
            progress.step(tar, len(leaks))
        for _ in marks:  # so that the file in the cache is finished
            pass
        progress.num_shards += 1
    return leaks


def _texts(items: Sequence[Item], text_units: int, form: Normalizer) -> Quotes:
    texts = Quotes(text_units, whole=True)
    for item in items:
        texts.add(item.id, _units(item.sample.text, item.sample.language, form))
    return texts


def _sounds(items: Sequence[Item]) -> Contents:
    sounds = Contents()
    for item in items:
        if item.audio is not None and not item.problem:
            try:
                sounds.add(item.id, fingerprint(item.waveform(RATE), RATE))
            except ItemError:  # the benchmark reports it
                continue
    return sounds


def _units(text: str, language: str, form: Normalizer) -> list[str]:
    """Units in that form, or in the default one where it does not know the language."""
    return (form if covers(form, language) else normalizer(DEFAULT)).units(text, language)


def _clips(columns: Columns, has_sound: np.ndarray) -> bytes:
    """The same for two shards of the same clips: keys, lengths of the sounds and of the texts."""
    found = hashlib.sha256(b"\n".join(columns.keys.tolist()))
    for values in (columns.records["duration"], columns.records["num_text_chars"], has_sound):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.digest()


def _marks(index: ShardIndex, has_sound: np.ndarray, tar: Place, cache: Path | None) -> Iterator[np.ndarray]:
    """The fingerprint of every sample, [M, 2]; from the cache, or made and put there."""
    if cache is None:
        yield from _heard(index, has_sound)
        return
    path = cache / f"{open_index(tar).header['sha256']}.{NAME}"
    if path.is_file() and _is_whole(path, len(index)):
        with open(path, "rb") as file:
            yield from _stored(file)
        return
    cache.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            for marks in _heard(index, has_sound):
                file.write(struct.pack("<I", len(marks)) + marks.astype("<i4").tobytes())
                yield marks
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _heard(index: ShardIndex, has_sound: np.ndarray) -> Iterator[np.ndarray]:
    for i, sounds in enumerate(has_sound.tolist()):
        yield fingerprint(index.waveform(i, RATE), RATE) if sounds else np.zeros((0, 2), np.int32)


def _stored(file: BinaryIO) -> Iterator[np.ndarray]:
    while len(size := file.read(4)) == 4:
        yield np.frombuffer(file.read(8 * struct.unpack("<I", size)[0]), "<i4").reshape(-1, 2)


def _is_whole(path: Path, num_samples: int) -> bool:
    """Whether a file of fingerprints holds one for every sample and nothing else."""
    total, position = path.stat().st_size, 0
    with open(path, "rb") as file:
        for _ in range(num_samples):
            if len(size := file.read(4)) < 4:
                return False
            position = file.seek(8 * struct.unpack("<I", size)[0], os.SEEK_CUR)
    return position == total


class _Progress:
    """A line every few seconds."""

    def __init__(self, num_shards: int) -> None:
        self.total, self.num_shards, self.num_samples, self._next = num_shards, 0, 0, time.monotonic() + PROGRESS_S

    def step(self, tar: Place, num_leaks: int) -> None:
        self.num_samples += 1
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + PROGRESS_S
            done = f"{self.num_shards} of {self.total} training shards, {self.num_samples:,} samples"
            print(f"contamination: {done}, {num_leaks} leaks; reading {tar}", flush=True)


def training_shards(folder: str | Path) -> list[str]:
    """The paths and globs of the shards that a run was trained on, sorted.

    Args:
        folder: of one stage (it and the stages it takes count), or of a run (all its stages count).

    A relative path in a recipe begins where training was started. If the run has been moved since, paths inside it are followed.

    Raises:
        FileNotFoundError: there is no recipe.yaml in the folder or right below it.
    """
    folder = Path(folder)
    waiting = [folder] if (folder / "recipe.yaml").is_file() else [path.parent for path in sorted(folder.glob("*/recipe.yaml"))]
    if not waiting:
        raise FileNotFoundError(f"{folder}: no recipe.yaml there or right below; name a stage's folder or a run's")
    found: set[str] = set()
    seen: set[Path] = set()
    while waiting:
        stage = waiting.pop()
        if stage.resolve() in seen or not (stage / "recipe.yaml").is_file():
            continue
        seen.add(stage.resolve())
        recipe = load_recipe(stage / "recipe.yaml", missing_ok=True)
        waiting += [Path(_moved(taken, recipe, stage)) for taken in _strings(recipe.get("takes") or {})]
        data = recipe.get("data")
        sources = data.get("train") if isinstance(data, Mapping) else None
        found.update(_moved(path, recipe, stage) for path in _shards(sources))
    return sorted(found)


def _shards(node: Any) -> Iterator[str]:
    """Everything under a key `shards`."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _strings(value) if key == "shards" else _shards(value)
    elif isinstance(node, list):
        for value in node:
            yield from _shards(value)


def _strings(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, Mapping | list):
        for value in node.values() if isinstance(node, Mapping) else node:
            yield from _strings(value)


def _moved(path: str, recipe: Mapping[str, Any], stage: Path) -> str:
    """A path of a recipe where its run lies now: beside the stage, if it lay beside the stage's `out`."""
    run = os.path.dirname(os.path.normpath(str(recipe.get("out") or "")))
    inside = os.path.normpath(path).removeprefix(f"{run}/") if run and "://" not in path else path
    return str(stage.parent / inside) if inside not in (path, os.path.normpath(path)) else path


def with_and_without(metric: CountingMetric, leaked: Collection[str], **options: Any) -> tuple[float, tuple[float, float]]:
    """Value and confidence interval of a metric over the items that did not leak; NaN where none is left.

    Args:
        metric: filled; it is not changed. The rows of this process count.
        leaked: ids of items.
        options: of `confidence_interval`.
    """
    leaked = frozenset(leaked)
    kept = [place for place, id in enumerate(metric.ids) if id not in leaked]
    if not kept:
        return float("nan"), (float("nan"), float("nan"))
    clean = metric.clone()
    clean.reset()
    clean.add_rows(metric.rows[kept], [metric.ids[place] for place in kept])
    return float(clean.value_of(clean.rows.sum(axis=0))), confidence_interval(clean, **options)
