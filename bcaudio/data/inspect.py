"""Looking at shards from the command line: `bcaudio shards ls | verify | stats | show`. Every function returns an exit code."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from bcaudio.data.index import ShardIndex, check_keys, expand_paths
from bcaudio.data.index_file import TOTALS, open_indices, read_header
from bcaudio.data.storage import Place
from bcaudio.data.verify import verify_shard


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
        header = read_header(tar)
        totals, size = header["totals"], f"{header['num_bytes'] / 1e6:.1f}"
        table.add_row(str(tar), str(totals["samples"]), f"{totals['seconds'] / 60:.1f}", str(totals["num_codes"]), size)
    Console().print(table)
    return 0


def verify(paths: Sequence[str | Path]) -> int:
    """Check every shard completely, and that no key comes twice in a folder; print every problem.

    Returns 1 when there is one, else 0.
    """
    tars = expand_paths(paths)
    problems: list[str] = []
    sound: dict[str, list[Place]] = defaultdict(list)
    for tar in tars:
        if found := verify_shard(tar):
            problems.extend(found)
        else:
            sound[str(tar).rpartition("/")[0]].append(tar)
    for together in sound.values():
        try:
            check_keys(together, open_indices(together))
        except ValueError as error:
            problems.append(str(error))
    console = Console(soft_wrap=True)
    for problem in problems:
        console.print(problem, style="red", markup=False, highlight=False)
    console.print(f"{len(problems)} problems in {len(tars)} shards")
    return 1 if problems else 0


def stats(paths: Sequence[str | Path]) -> int:
    """One row per corpus, split and language: samples, speakers, minutes, seconds per clip, frames of codes; then the totals by
    licence, source and language. Returns 0."""
    index = ShardIndex(paths)
    names, ids = zip(*(index.labels(name) for name in ("corpus", "split", "language")), strict=True)
    speakers, speaker_ids = index.labels("speaker")
    columns = ("corpus", "split", "language", "samples", "speakers", "minutes", "median s", "max s", "code frames", "chars")
    table = _table(f"{len(index)} samples", *columns)
    groups, group_of = np.unique(np.stack(ids), axis=1, return_inverse=True)
    labelled = [tuple(labels[i] for labels, i in zip(names, group, strict=True)) for group in groups.T.tolist()]
    for labels, number in sorted(zip(labelled, range(len(labelled)), strict=True)):
        rows = group_of == number
        durations_s = index.durations_s[rows]
        table.add_row(
            *labels,
            str(rows.sum()),
            str(sum(speakers[i] != "" for i in np.unique(speaker_ids[rows]))),
            f"{durations_s.sum() / 60:.1f}",
            f"{np.median(durations_s):.2f}",
            f"{durations_s.max():.2f}",
            str(int(index.num_codes[rows].sum())),
            str(int(index.num_text_chars[rows].sum())),
        )
    Console().print(table)
    _print_provenance(index)
    return 0


def _print_provenance(index: ShardIndex) -> None:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for tar in index.tars:
        totals = read_header(tar)["totals"]
        for name in TOTALS:
            for label, (samples, seconds) in totals[name].items():
                sums[name, label][0] += samples
                sums[name, label][1] += seconds
    table = _table("provenance", "of", "name", "samples", "hours")
    for (name, label), (samples, seconds) in sums.items():
        table.add_row(name, label or "-", str(samples), f"{seconds / 3600:.2f}")
    Console().print(table)


def show(paths: Sequence[str | Path], key: str) -> int:
    """One sample in full: its fields, spans and the shape of its codes. Returns 1 when no shard holds the key."""
    index = ShardIndex(paths)
    console = Console()
    row = index.find(key)
    if row is None:
        rows = np.flatnonzero(np.char.startswith(index.keys, key[:12].encode()))[:3]
        near = [index.key(int(i)) for i in rows]
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
