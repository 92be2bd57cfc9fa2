"""Line by line readers of what corpora come with: text lines, tab-separated tables, JSON lines, one huge JSON list.

A line that cannot be used is counted in `dropped` and the rest goes on; nothing holds more than one line (or item) in memory.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.steps.read import open_binary

_CHUNK = 1 << 20  # characters
_LARGEST_ITEM = 1 << 28  # characters: a list item beyond it is broken JSON
_BETWEEN = re.compile(r"[\s,]*")


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


def json_items(path: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of the list `name` in one huge JSON object, e.g. `{"dataset": "x", "audios": [{...}, ...]}`.

    Raises:
        ValueError: there is no such list near the top, the JSON is broken, or the file ends in the middle.
    """
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8") as file:
        try:
            buffer = file.read(_CHUNK)
            opening = re.search(rf'"{name}"\s*:\s*\[', buffer)
            if opening is None:
                raise ValueError(f"{path}: no list {name!r} in its first {_CHUNK} characters; download the file again")
            position = opening.end()
            while True:
                position = _BETWEEN.match(buffer, position).end()
                if buffer.startswith("]", position):
                    return
                try:
                    item, position = decoder.raw_decode(buffer, position)
                except json.JSONDecodeError as error:
                    more = file.read(max(_CHUNK, len(buffer) - position))
                    if not more or len(buffer) - position > _LARGEST_ITEM:
                        raise ValueError(
                            f"{path}: list {name!r} is broken or ends early ({error.msg}); download it again"
                        ) from None
                    buffer, position = buffer[position:] + more, 0
                    continue
                yield item
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); download it again") from error
