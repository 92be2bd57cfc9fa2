"""How long every sample of some shards is as a token sequence, measured once per (shard, task, text tokenizer) and kept."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import bcaudio.data.sequence
import bcaudio.data.tasks
import bcaudio.text.tokenizer
from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import read_header
from bcaudio.data.sequence import SequenceBuilder
from bcaudio.data.storage import Place
from bcaudio.data.tasks import segments_of

# what a length depends on besides the shard, the task and the tokenizer
_CODE = tuple(Path(module.__file__) for module in (bcaudio.data.tasks, bcaudio.data.sequence, bcaudio.text.tokenizer))
MANY = 20_000  # more samples than this are measured by several processes


def sequence_lengths(index: ShardIndex, task: str, builder: SequenceBuilder, folder: str | Path | None) -> np.ndarray:
    """Tokens, paid text labels and paid audio frames of every sample under a task, int32 [3, N].

    A sample of 0 tokens is one that the task cannot take. Processes that measure the same shards into one folder share the work.

    Args:
        folder: where results are kept, a file per shard; None keeps nothing.
    """
    headers = [read_header(tar) for tar in index.tars]
    files = table_files([header["sha256"] for header in headers], task, builder, folder)
    tables: dict[int, np.ndarray] = {}
    todo: list[tuple[int, Place, Path | None]] = []
    for i, (tar, header, file) in enumerate(zip(index.tars, headers, files, strict=True)):
        table = _read(file, header["num_samples"])
        if table is None:
            todo.append((i, tar, file))
        else:
            tables[i] = table
    # the ranks of a job begin at different shards
    start = int(os.environ.get("RANK", 0)) * len(todo) // int(os.environ.get("WORLD_SIZE", 1))
    todo = todo[start:] + todo[:start]
    work = partial(_measured, task=task, builder=builder)
    numbers, tars, places = zip(*todo, strict=True) if todo else ((), (), ())
    if sum(headers[i]["num_samples"] for i in numbers) > MANY and len(todo) > 1:
        # not forked: threads of the tokenizer or of torch would leave their locks behind
        processes = max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        with ProcessPoolExecutor(min(len(todo), processes), mp_context=multiprocessing.get_context("spawn")) as pool:
            made = list(pool.map(work, tars, places))
    else:
        made = [work(tar, file) for tar, file in zip(tars, places, strict=True)]
    tables.update(zip(numbers, made, strict=True))
    return np.concatenate([tables[i] for i in range(len(index.tars))], axis=1)


def table_files(
    checksums: Sequence[str], task: str, builder: SequenceBuilder, folder: str | Path | None
) -> list[Path] | list[None]:
    """The file of each shard, given the SHA-256 of the shards; its name also stands for the tokenizer and for the code here."""
    if folder is None:
        return [None] * len(checksums)
    parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (builder.tokenizer.file, *_CODE)]
    names = [json.dumps([checksum, task, builder.audio_as, len(builder.end_frame), *parts]).encode() for checksum in checksums]
    return [Path(folder) / f"{task}-{hashlib.sha256(name).hexdigest()[:24]}.npy" for name in names]


def _measured(tar: Place, file: Path | None, task: str, builder: SequenceBuilder) -> np.ndarray:
    index = ShardIndex([tar])
    table = _read(file, len(index))  # another process may have been here meanwhile
    if table is not None:
        return table
    table = np.array([_measure(index, i, task, builder) for i in range(len(index))], np.int32).reshape(-1, 3).T
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}.tmp")
        with open(temporary, "wb") as stream:
            np.save(stream, table, allow_pickle=False)
        temporary.replace(file)
    return table


def _measure(index: ShardIndex, i: int, task: str, builder: SequenceBuilder) -> Sequence[int]:
    sample = index.sample(i)
    try:
        return builder.measure(segments_of(task, sample))
    except (ValueError, LookupError):
        return 0, 0, 0


def _read(file: Path | None, num_samples: int) -> np.ndarray | None:
    if file is None or not file.is_file():
        return None
    try:
        table = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None  # damaged: measured again
    return table if table.shape == (3, num_samples) and table.dtype == np.int32 else None
