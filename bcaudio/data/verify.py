"""Is a shard whole: every byte of tar and index, and what the one says of the other."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from dataclasses import asdict
from typing import BinaryIO

import soundfile

from bcaudio.data.index_file import Columns, entry_of, index_path, open_index
from bcaudio.data.schema import Sample
from bcaudio.data.shards import BLOCK, SAMPLE_RATE, padded, read_codes
from bcaudio.data.storage import Place, open_binary


def verify_shard(tar: Place) -> list[str]:
    """Everything wrong with a shard, one line per problem, each naming the file; an empty list means sound.

    Checks size and checksums, so that a changed byte is found wherever it lies, and its sample named; every header at the place
    the index names; a plain sequential scan against the index (a corrupt header in the middle ends such a scan silently); that
    there are plain files alone; that every JSON, flac and codes member decodes; and that the index says of each sample what its
    JSON says.
    """
    try:
        stream = open_binary(tar)
    except FileNotFoundError:
        return [f"{tar}: the file is missing"]
    with stream:
        try:
            index = open_index(tar)
            columns = index.columns()
        except (ValueError, FileNotFoundError) as error:
            return [str(error)]
        problems: list[str] = []
        if not index.is_whole():
            problems.append(f"{index_path(tar)}: bytes of the index have changed; make the shard again")
        size = stream.seek(0, 2)
        if size != index.header["num_bytes"]:
            problems.append(f"{tar}: {size} bytes, but its index says {index.header['num_bytes']}")
        stream.seek(0)
        checksum, stored = hashlib.file_digest(stream, "sha256").hexdigest(), index.header["sha256"]
        if checksum != stored:
            problems.append(f"{tar}: sha256 is {checksum[:12]}..., but its index says {stored[:12]}...")
        problems.extend(_compare_with_scan(tar, stream, columns))
        for row in range(index.num_samples):
            problems.extend(_verify_sample(tar, stream, size, columns, row))
    return problems


def _compare_with_scan(tar: Place, stream: BinaryIO, columns: Columns) -> list[str]:
    expected = {f"{columns.key(row)}.{kind}" for row in range(len(columns.records)) for kind in columns.members(row)}
    found: set[str] = set()
    problems: list[str] = []
    stream.seek(0)
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                found.add(member.name)
                if not member.isreg():
                    problems.append(f"{tar}: member {member.name!r} is no plain file (a link or a device); do not use this tar")
                elif "/" in member.name or "\\" in member.name:
                    problems.append(f"{tar}: member {member.name!r} names a folder; do not use this tar")
    except (tarfile.TarError, EOFError, OSError):
        pass  # what was found before the break is compared with the index
    if found != expected:
        problems.append(
            f"{tar}: a scan finds {len(found)} members, its index has {len(expected)}; "
            f"first difference {min(found ^ expected)!r} (a corrupt header ends a scan)"
        )
    return problems


def _verify_sample(tar: Place, stream: BinaryIO, size: int, columns: Columns, row: int) -> list[str]:
    key, places = columns.key(row), columns.members(row)
    where = f"{tar}: {key}"
    if "json" not in places:
        return [f"{where}: its index knows no {key}.json"]
    start = min(offset for offset, _ in places.values()) - BLOCK
    end = max(offset + padded(length) for offset, length in places.values())
    if start < 0 or end > size:
        names = ", ".join(f"{key}.{kind}" for kind, (offset, length) in places.items() if offset + padded(length) > size)
        return [f"{where}: bytes {start} to {end} of {size} ({names}): the tar was cut, or its index is wrong"]
    stream.seek(start)
    data = stream.read(end - start)
    problems: list[str] = []
    if zlib.crc32(data) != columns.records["crc32"][row]:
        problems.append(f"{where}: bytes {start} to {end} are not what was written (crc32)")
    for kind, (offset, length) in places.items():
        name, header_at = f"{key}.{kind}", offset - BLOCK - start
        try:
            header = tarfile.TarInfo.frombuf(data[header_at : header_at + BLOCK], "utf-8", "strict")
            if (header.name, header.size) != (name, length):
                said = f"{header.name!r}, {header.size} bytes"
                problems.append(f"{tar}: header of {name} says {said}; its index says {length} bytes")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            problems.append(f"{tar}: header of {name} is corrupt ({error})")
    members = {kind: data[offset - start : offset - start + length] for kind, (offset, length) in places.items()}
    try:
        codes = read_codes(members["codes.npy"], where) if "codes.npy" in members else None
        sample = Sample.from_json(members["json"], codes)
        entry = asdict(columns.entry(row))
        for name, value in asdict(entry_of(sample)).items():
            if entry[name] != value:
                problems.append(f"{where}: {name} is {value!r}, but its index says {entry[name]!r}")
        if "flac" in members:
            duration_s = len(soundfile.read(io.BytesIO(members["flac"]), dtype="int16")[0]) / SAMPLE_RATE
            if abs(duration_s - sample.duration_s) > 0.01:
                problems.append(f"{tar}: {sample.key}.flac lasts {duration_s:.3f} s, but duration_s is {sample.duration_s}")
    except (ValueError, soundfile.SoundFileError) as error:
        problems.append(f"{where}: {error}")
    return problems
