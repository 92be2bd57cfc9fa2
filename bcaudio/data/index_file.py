"""The index of one shard, `name-000000.idx`: a short JSON header, 64 bytes per sample, the keys, the names behind the ids.

docs/design.md, section 3, has the layout. A reader maps the file and makes no Python object per sample.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.data.schema import Sample
from bcaudio.data.storage import Place, as_place, file_name, is_url, join, read_files

FORMAT = "bcaudio-shard-2"
MAGIC = FORMAT.encode() + b"\n"
KINDS = ("codes.npy", "flac", "json")  # members of a sample, in their order in the tar
LABELS = ("corpus", "split", "language", "speaker", "licence")
TOTALS = ("licence", "source", "language")
TICKS = 10_000  # per second; durations have four digits
# magic, sha256 of all that follows it, size of the header, size of the file
PREAMBLE = struct.Struct("<16s32sQQ")
_CHECKED_FROM = 48
RECORD = np.dtype(
    [
        ("at", "<u8", (3,)),  # where the data of each of KINDS begins in the tar
        ("size", "<u4", (3,)),  # its bytes; 0: the sample has no such member
        ("duration", "<u4"),  # in ticks
        ("num_codes", "<u4"),
        ("num_text_chars", "<u4"),
        ("crc32", "<u4"),  # of the sample's members with their tar headers and padding
        ("speaker", "<u4"),  # ids into the tables
        ("corpus", "<u2"),
        ("split", "<u2"),
        ("language", "<u2"),
        ("licence", "<u2"),
    ]
)
assert RECORD.itemsize == 64
_HEADER_TYPES = {
    "shard": str,
    "sha256": str,
    "num_bytes": int,
    "num_samples": int,
    "key_bytes": int,
    "table_bytes": int,
    "fingerprint": dict,
    "totals": dict,
}


@dataclass(frozen=True)
class Entry:
    """What planning needs to know of a sample without reading it. `num_codes` counts the frames of all spans."""

    key: str
    corpus: str
    split: str
    language: str
    speaker: str
    licence: str
    duration_s: float
    num_codes: int
    num_text_chars: int


def entry_of(sample: Sample) -> Entry:
    """The entry of a sample."""
    labels = {name: getattr(sample, name) for name in LABELS}
    counts = {"num_codes": sum(sample.span_num_codes), "num_text_chars": len(sample.text)}
    return Entry(key=sample.key, duration_s=round(sample.duration_s, 4), **labels, **counts)


@dataclass(frozen=True)
class Written:
    """A sample as it stands in a tar: kind of member -> (offset, bytes), and the crc32 of its stretch of the tar."""

    entry: Entry
    source: str
    members: Mapping[str, tuple[int, int]]
    crc32: int


def index_path(tar: Place) -> Place:
    """`x/numbers-train-000000.tar` -> `x/numbers-train-000000.idx`."""
    return f"{str(tar).removesuffix('.tar')}.idx" if is_url(tar) else Path(tar).with_suffix(".idx")


def pack_index(shard: str, sha256: str, num_bytes: int, fingerprint: Mapping[str, Any], samples: Sequence[Written]) -> bytes:
    """The bytes of an index file; equal samples give equal bytes.

    Raises:
        ValueError: a number is beyond what a record holds.
    """
    tables: dict[str, dict[str, int]] = {name: {} for name in LABELS}
    records = np.zeros(len(samples), RECORD)
    try:
        for record, sample in zip(records, samples, strict=True):
            entry = sample.entry
            for k, kind in enumerate(KINDS):
                record["at"][k], record["size"][k] = sample.members.get(kind, (0, 0))
            record["duration"] = round(entry.duration_s * TICKS)
            for name in ("num_codes", "num_text_chars"):
                record[name] = getattr(entry, name)
            record["crc32"] = sample.crc32
            for name, table in tables.items():
                record[name] = table.setdefault(getattr(entry, name), len(table))
    except OverflowError as error:
        raise ValueError(f"{shard}: sample {entry.key!r} does not fit its index ({error}); make smaller shards") from error
    key_bytes = -(-max((len(sample.entry.key) for sample in samples), default=1) // 8) * 8
    keys = np.array([sample.entry.key.encode() for sample in samples], dtype=f"S{key_bytes}")
    tail = json.dumps({name: list(table) for name, table in tables.items()}, ensure_ascii=False).encode()
    header = {
        "format": FORMAT,
        "shard": shard,
        "sha256": sha256,
        "num_bytes": num_bytes,
        "num_samples": len(samples),
        "key_bytes": key_bytes,
        "table_bytes": len(tail),
        "fingerprint": dict(fingerprint),
        "totals": _totals(samples, records),
    }
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 64)  # records begin at a multiple of their size
    body = text + records.tobytes() + keys.tobytes() + tail
    sizes = struct.pack("<QQ", len(text), PREAMBLE.size + len(body))
    return MAGIC + hashlib.sha256(sizes + body).digest() + sizes + body


def _totals(samples: Sequence[Written], records: np.ndarray) -> dict[str, Any]:
    """Samples and seconds, together and by licence, source and language; frames of codes, characters of text."""
    grouped: dict[str, dict[str, list[int]]] = {name: {} for name in TOTALS}
    ticks = records["duration"].tolist()
    for sample, duration in zip(samples, ticks, strict=True):
        for name, groups in grouped.items():
            total = groups.setdefault(sample.source if name == "source" else getattr(sample.entry, name), [0, 0])
            total[0] += 1
            total[1] += duration
    return {
        "samples": len(samples),
        "seconds": sum(ticks) / TICKS,
        "num_codes": int(records["num_codes"].sum(dtype=np.int64)),
        "num_text_chars": int(records["num_text_chars"].sum(dtype=np.int64)),
        **{name: {label: [n, t / TICKS] for label, (n, t) in sorted(groups.items())} for name, groups in grouped.items()},
    }


class IndexFile:
    """One index, of which only the header is in memory; `columns()` maps the rest.

    Args:
        place: of the index.
        content: all bytes, where the place is a URL; a local file is opened.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, or not one of ours; one line with the remedy.
    """

    def __init__(self, place: Place, content: bytes | None = None) -> None:
        self.place, self._content = as_place(place), content
        if content is None:
            with open(place, "rb", buffering=0) as stream:
                start, size = stream.read(4096), stream.seek(0, 2)
                stream.seek(len(start))
                self.header, self._records_at = self._parse(start, size, stream)
        else:
            self.header, self._records_at = self._parse(content, len(content), None)
        self.num_samples: int = self.header["num_samples"]

    def _parse(self, start: bytes, size: int, rest: Any) -> tuple[dict[str, Any], int]:
        if not start.startswith(MAGIC):
            raise ValueError(f"{self.place}: is no index of the format {FORMAT!r}; make the shard again")
        if len(start) < PREAMBLE.size:
            raise self._damaged(f"ends at byte {size}")
        _, _, header_bytes, file_bytes = PREAMBLE.unpack_from(start)
        records_at = PREAMBLE.size + header_bytes
        if size != file_bytes or records_at > size:
            raise self._damaged(f"is {size} bytes long and should be {max(file_bytes, records_at)}")
        if records_at > len(start):
            start += rest.read(records_at - len(start))
        try:
            header = json.loads(start[PREAMBLE.size : records_at])
        except ValueError as error:
            raise self._damaged(f"has a header that cannot be read ({error})") from error
        for name, kind in _HEADER_TYPES.items():
            if not isinstance(header, dict) or not isinstance(header.get(name), kind):
                raise self._damaged(f"has a header without a valid {name!r}")
        samples, key_bytes, table_bytes = (header[name] for name in ("num_samples", "key_bytes", "table_bytes"))
        expected = records_at + samples * (RECORD.itemsize + key_bytes) + table_bytes
        if samples < 0 or key_bytes < 8 or key_bytes % 8 or table_bytes < 0 or expected != size:
            raise self._damaged(f"is {size} bytes long, but its {samples} samples need {expected}")
        return header, records_at

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.place}: {what}: the index is damaged; copy the shard again or make it again")

    def columns(self) -> Columns:
        """Records, keys and names over the mapped file, which stays mapped while they live."""
        if self._content is not None:
            buffer: bytes | mmap.mmap = self._content
        else:
            with open(self.place, "rb") as stream:
                buffer = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        if len(buffer) < self._records_at + self.num_samples * (RECORD.itemsize + self.header["key_bytes"]):
            raise self._damaged(f"was cut to {len(buffer)} bytes since it was opened")
        return Columns(self, buffer, self._records_at)

    def is_whole(self) -> bool:
        """Whether every byte is as it was written."""
        content = self._content if self._content is not None else Path(self.place).read_bytes()
        return hashlib.sha256(content[_CHECKED_FROM:]).digest() == content[16:_CHECKED_FROM]


class Columns:
    """What an index says, as arrays over its bytes: `records` [N] of RECORD, `keys` [N] of bytes."""

    def __init__(self, file: IndexFile, buffer: bytes | mmap.mmap, records_at: int) -> None:
        self._file, self._buffer = file, buffer
        self.records = np.frombuffer(buffer, RECORD, file.num_samples, records_at)
        keys_at, key_bytes = records_at + self.records.nbytes, file.header["key_bytes"]
        self.keys = np.frombuffer(buffer, f"S{key_bytes}", file.num_samples, keys_at)
        self._tables_at = keys_at + self.keys.nbytes

    @cached_property
    def tables(self) -> dict[str, list[str]]:
        """The names behind the ids of each of LABELS."""
        try:
            tables = json.loads(self._buffer[self._tables_at :])
            if all(isinstance(name, str) for label in LABELS for name in tables[label]):
                return tables
        except (ValueError, KeyError, TypeError):
            pass
        raise self._file._damaged("has tables of names that cannot be read")

    def key(self, row: int) -> str:
        """Key of a sample."""
        return self.keys[row].decode("ascii", "replace")

    def entry(self, row: int) -> Entry:
        """Entry of a sample. Raises ValueError where an id has no name."""
        record = self.records[row]
        try:
            labels = {name: self.tables[name][record[name]] for name in LABELS}
        except IndexError:
            raise self._file._damaged(f"gives {self.key(row)} an id without a name") from None
        counts = {name: int(record[name]) for name in ("num_codes", "num_text_chars")}
        return Entry(key=self.key(row), duration_s=int(record["duration"]) / TICKS, **labels, **counts)

    def members(self, row: int) -> dict[str, tuple[int, int]]:
        """Kind of member -> (offset, bytes), for those that the sample has."""
        at, size = (self.records[name][row].tolist() for name in ("at", "size"))
        return {kind: (at[k], size[k]) for k, kind in enumerate(KINDS) if size[k]}


def open_index(tar: Place) -> IndexFile:
    """The index beside one tar; see `open_indices`."""
    return open_indices([tar])[0]


def open_indices(tars: Sequence[Place]) -> list[IndexFile]:
    """The indices beside some tars; those behind URLs are fetched whole.

    Raises:
        FileNotFoundError: one is missing: its shard is unfinished.
        ValueError: one is damaged, of an old format or not ours.
    """
    urls = [str(index_path(tar)) for tar in tars if is_url(tar)]
    try:
        contents = dict(zip(urls, read_files(urls), strict=True))
        return [IndexFile(index_path(tar), contents.get(str(index_path(tar)))) for tar in tars]
    except FileNotFoundError as error:
        for tar in tars:
            if not is_url(tar) and not Path(index_path(tar)).exists():
                raise _missing(tar) from error
        raise FileNotFoundError(f"{error}; or the shard is unfinished: make it again with python -m data_prep run") from error


def _missing(tar: Place) -> Exception:
    old = join(Path(tar).parent, f"{Path(tar).stem}.index.json")
    if Path(old).exists():
        return ValueError(f"{old}: an index of an old format; make the shards again with python -m data_prep run")
    name = file_name(index_path(tar))
    return FileNotFoundError(
        f"{tar}: its index {name} is missing, so the shard is unfinished; make it again with python -m data_prep run"
    )


def read_header(tar: Place) -> dict[str, Any]:
    """Header of the index beside a tar: shard, sha256, num_bytes, num_samples, fingerprint, totals. Errors: `open_indices`."""
    return open_index(tar).header
