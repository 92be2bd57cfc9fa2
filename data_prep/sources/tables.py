"""Line by line readers of what corpora come with: text lines, tab-separated tables, JSON lines.

A line that cannot be used is counted in `dropped` and the rest goes on; nothing holds more than one line (or item) in memory.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.steps.read import open_binary


def text_lines(path: str | Path, dropped: Counter[str]) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of every line that is not blank, in UTF-8; a path or URL, `.gz` is unpacked on the way.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a gzip file that ends early or is none.
    """
    with open_binary(path) as raw:
        file = gzip.GzipFile(fileobj=raw) if str(path).endswith(".gz") else raw
        try:
            for number, encoded in enumerate(file, 1):
                try:
                    line = encoded.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    dropped["wrong text encoding"] += 1
                    continue
                if "\0" in line:  # UTF-16 of Latin letters is valid UTF-8 with zeros
                    dropped["wrong text encoding"] += 1
                elif line.strip():
                    yield number, line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: cannot be unpacked ({error}); copy the file again") from error


def split_lines(path: str | Path, dropped: Counter[str], num_columns: int, separator: str | None = "\t") -> Iterator[list[str]]:
    """The columns of a table without header; `separator` None: the last column may hold blanks."""
    for _, line in text_lines(path, dropped):
        columns = line.split(separator, num_columns - 1 if separator is None else -1)
        if len(columns) == num_columns:
            yield columns
        else:
            dropped["wrong column count"] += 1


def tsv_rows(path: str | Path, dropped: Counter[str], required: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a tab-separated table by the names in its first line; quotes are letters like any other.

    Raises:
        ValueError: the header lacks a column of `required`.
    """
    header: list[str] | None = None
    for _, line in text_lines(path, dropped):
        columns = line.split("\t")
        if header is None:
            missing = [name for name in required if name not in columns]
            if missing:
                raise ValueError(
                    f"{path}: the header has no column {missing[0]!r} (it has {', '.join(columns)[:200]}); restore it"
                )
            header = columns
        elif len(columns) == len(header):
            yield dict(zip(header, columns, strict=True))
        else:
            dropped["wrong column count"] += 1


def json_lines(path: str | Path, dropped: Counter[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of a JSONL file; lines that hold no JSON object are dropped."""
    for number, line in text_lines(path, dropped):
        try:
            item = json.loads(line)
        except json.JSONDecodeError:
            item = None
        if isinstance(item, dict):
            yield number, item
        else:
            dropped["not a JSON object"] += 1
