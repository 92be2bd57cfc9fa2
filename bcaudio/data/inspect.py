"""Looking at shards from the command line: `bcaudio shards ls | verify | stats | show`. Every function returns an exit code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bcaudio.data.index import ShardIndex, expand_paths
from bcaudio.data.shards import read_index, verify_shard


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    return table


def ls(paths: Sequence[str | Path]) -> int:
    """One row per shard: samples, hours, frames of codes, bytes. Returns 0."""
    index = ShardIndex(paths)
    table = _table(f"{len(index.tars)} shards", "shard", "samples", "minutes", "code frames", "MB")
    for tar in index.tars:
        content = read_index(tar)
        samples = content["samples"]
        minutes = sum(s["duration_s"] for s in samples) / 60
        frames = sum(sum(s["span_num_codes"]) for s in samples)
        table.add_row(str(tar), str(len(samples)), f"{minutes:.1f}", str(frames), f"{content['num_bytes'] / 1e6:.1f}")
    Console().print(table)
    return 0


def verify(paths: Sequence[str | Path]) -> int:
    """Check every shard completely and print every problem. Returns 1 when there is one, else 0."""
    tars = expand_paths(paths)
    problems = [problem for tar in tars for problem in verify_shard(tar)]
    console = Console(soft_wrap=True)
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False)
    console.print(f"{len(problems)} problems in {len(tars)} shards")
    return 1 if problems else 0


def stats(paths: Sequence[str | Path]) -> int:
    """One row per corpus, split and language: samples, speakers, minutes, seconds per clip, frames of codes. Returns 0."""
    index = ShardIndex(paths)
    groups: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for i, entry in enumerate(index.entries):
        groups[entry.corpus, entry.split, entry.language].append(i)
    columns = ("corpus", "split", "language", "samples", "speakers", "minutes", "median s", "max s", "code frames", "chars")
    table = _table(f"{len(index)} samples", *columns)
    for group, rows in sorted(groups.items()):
        durations_s = index.durations_s[rows]
        speakers = len({index.entries[i].speaker for i in rows} - {""})
        chars = sum(index.entries[i].num_text_chars for i in rows)
        table.add_row(
            *group,
            str(len(rows)),
            str(speakers),
            f"{durations_s.sum() / 60:.1f}",
            f"{np.median(durations_s):.2f}",
            f"{durations_s.max():.2f}",
            str(int(index.num_codes[rows].sum())),
            str(chars),
        )
    Console().print(table)
    return 0


def show(paths: Sequence[str | Path], key: str) -> int:
    """One sample in full: its fields, spans and the shape of its codes. Returns 1 when no shard holds the key."""
    index = ShardIndex(paths)
    console = Console()
    row = next((i for i, entry in enumerate(index.entries) if entry.key == key), None)
    if row is None:
        near = [entry.key for entry in index.entries if entry.key.startswith(key[:12])][:3]
        similar = f"; similar: {', '.join(near)}" if near else ""
        console.print(f"{key}: in none of {len(index.tars)} shards{similar}", markup=False)
        return 1
    sample = index.sample(row)
    fields = json.loads(sample.to_json())
    spans = fields.pop("spans")
    console.print_json(data=fields)
    table = _table("spans", "text", "role", "start s", "end s", "frames")
    for i, span in enumerate(spans):
        frames = str(sample.span_num_codes[i]) if sample.span_num_codes else "-"
        table.add_row(span["text"], span["role"], f"{span['start_s']:.3f}", f"{span['end_s']:.3f}", frames)
    console.print(table)
    console.print(f"codes: {'none' if sample.codes is None else sample.codes.shape}")
    return 0
