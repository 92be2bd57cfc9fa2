"""What the readers of published evaluation sets share: lines and tables, and rows that become items."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.corpora.recording import Recording
from bcaudio.inference.item import Item

MAX_KEY = 80  # characters, as in `Sample`
_NAMED = 3  # ids named in an error


@dataclass(frozen=True)
class Row:
    """One item as it is published.

    Args:
        source_id: its published name.
        text: what is said, or is to be said.
        where: file and line, for errors.
        audio: its recording; None where it has none.
        language, translation, target_language, answer, speaker, duration_s: as in `Sample`.
        fields: what the benchmark needs beyond the sample.
        problem: why it cannot be asked, where the reader knows one.
    """

    source_id: str
    text: str
    where: str
    language: str
    audio: Recording | None = None
    translation: str | None = None
    target_language: str | None = None
    answer: str | None = None
    speaker: str = ""
    duration_s: float = 0.0
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


class PublishedCorpus(ABC):
    """An evaluation set on disk as its publishers packed it. A subclass says where it is published and yields its rows.

    `items` reads texts only; sound is read when an item is asked. Keys are the published ids, made valid (`make_key`); the id
    itself is `fields["source_id"]`. An item whose recording is not there, or whose reference holds no letter and no digit, comes
    with a `problem`.
    """

    title: ClassVar[str]
    site: ClassVar[str]
    layout: ClassVar[str]
    role: ClassVar[str] = "user"  # of the one span of every sample

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """The rows in an order that never changes; ValueError naming file and line for one that cannot be read."""

    @property
    def split(self) -> str:
        """Of the samples."""
        return "test"

    def items(self, where: str) -> list[Item]:
        """All items; `where` names the asking benchmark in errors.

        Raises:
            FileNotFoundError: not on this machine; the message says where it is published and how it must lie.
            ValueError: a line that cannot be read, an id that comes twice, or no item at all; the message names the file.
        """
        there, items, seen, twice = Listing(), [], {}, []
        for row in self.rows():
            key = make_key(row.source_id)
            if key in seen:
                twice.append(f"{row.source_id!r} ({seen[key]} and {row.where})")
            seen[key] = row.where
            items.append(self._item(key, row, there))
        if twice:
            more = f" and {len(twice) - _NAMED} more" if len(twice) > _NAMED else ""
            raise ValueError(f"{where}: {self.title}: ids come twice: {', '.join(twice[:_NAMED])}{more}; restore the files")
        if not items:
            raise ValueError(f"{where}: {self}: has no item; correct what is chosen, or copy the files again")
        return items

    def _item(self, key: str, row: Row, there: Listing) -> Item:
        problem = row.problem
        if not problem and not any(map(str.isalnum, row.text)):
            problem = "empty reference"
        if not problem and row.translation is not None and not any(map(str.isalnum, row.translation)):
            problem = "empty translation"
        if not problem and row.audio is not None and not there.has(row.audio.path):
            problem = f"missing audio: {row.audio.path}"
        sample = Sample(
            key=key,
            corpus=type(self).__name__,
            split=self.split,
            language=row.language,
            speaker=row.speaker,
            text=row.text,
            spans=(Span(row.text, 0.0, row.duration_s, self.role),),
            translation=row.translation,
            target_language=row.target_language,
            answer=row.answer,
            source=self.title,
            duration_s=row.duration_s,
        )
        return Item(sample, row.audio, {"source_id": row.source_id, **row.fields}, problem)

    def require(self, *parts: str | Path) -> Path:
        """A path whose first part is the corpus's folder. Raises FileNotFoundError with site and layout."""
        path = Path(*parts).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there; {self.title} is published at {self.site} and must lie as {self.layout}")
        return path


class Listing:
    """Which files are there: every folder is listed once, since asking for each file takes long on a network disk."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        """Whether a file is there."""
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder or "."))
            except OSError:
                self._names[folder] = frozenset()
        return name in self._names[folder]


def make_key(name: str) -> str:
    """A published id as a key of 1 to 80 characters of A-Z, a-z, 0-9, _ and -; the same id gives the same key.

    An id that has to be changed for that gets 16 hexadecimal digits of its SHA-256, so that two ids never share a key.
    """
    plain = re.sub(r"[^a-zA-Z0-9_-]+", "-", name)
    if plain == name and 0 < len(name) <= MAX_KEY:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{plain[: MAX_KEY - 17]}-{digest}"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line) of every line that is not blank.

    Raises:
        ValueError: a line that is not UTF-8; names file and line.
    """
    with open(path, "rb") as file:
        for number, encoded in enumerate(file, 1):
            try:
                line = encoded.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}:{number}: is not UTF-8 ({error.reason}); restore the file") from error
            if line.strip():
                yield number, line


def split_lines(path: Path, num_columns: int | Sequence[int], separator: str | None = "\t") -> Iterator[tuple[str, list[str]]]:
    """(`file:line`, columns) of a table without header; `separator` None: words, the last column may hold blanks or be missing.

    Raises:
        ValueError: a line with another number of columns; names file and line.
    """
    allowed = [num_columns] if isinstance(num_columns, int) else list(num_columns)
    for number, line in text_lines(path):
        if separator is None:
            columns = line.split(None, allowed[0] - 1)
            columns += [""] * (allowed[0] - len(columns) == 1)
        else:
            columns = line.split(separator)
        if len(columns) not in allowed:
            expected = " or ".join(map(str, allowed))
            raise ValueError(f"{path}:{number}: has {len(columns)} columns, expected {expected}: {line[:60]!r}; restore the file")
        yield f"{path}:{number}", columns


def tsv_rows(path: Path, required: Sequence[str], escapes: bool = False) -> Iterator[tuple[str, dict[str, str]]]:
    """(`file:line`, row by the names in the first line) of a tab-separated table; quotes are letters like any other.

    Args:
        path: the table.
        required: columns it must have.
        escapes: a backslash stands before a character that is meant as itself.

    Raises:
        ValueError: a missing column, a line with another number of columns, or not UTF-8; names file and line.
    """
    header: list[str] = []
    for number, line in text_lines(path):
        columns = line.split("\t")
        if escapes and "\\" in line:
            columns = next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"))
        if not header:
            header = columns
            if missing := [name for name in required if name not in header]:
                raise ValueError(f"{path}:{number}: has no column {missing[0]!r} (it has {', '.join(header)[:120]}); restore it")
        elif len(columns) != len(header):
            raise ValueError(f"{path}:{number}: has {len(columns)} columns, the header {len(header)}; restore the file")
        else:
            yield f"{path}:{number}", dict(zip(header, columns, strict=True))


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file:line`, object) of a JSONL file.

    Raises:
        ValueError: a line that holds no JSON object; names file and line.
    """
    for number, line in text_lines(path):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: is not JSON ({error}); correct the line") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{path}:{number}: is a {type(entry).__name__}, not an object; correct the line")
        yield f"{path}:{number}", entry


def choose(where: str, chosen: str, known: Sequence[str]) -> str:
    """`chosen` as it is; ValueError for one that is not `known`."""
    if chosen not in known:
        raise ValueError(f"{where} is {chosen!r}; known are {', '.join(known)}")
    return chosen
