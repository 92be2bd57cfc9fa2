"""The tar format: webdataset shards with an offset index beside each (docs/design.md, section 3).

A shard is `name-000000.tar` holding `key.json`, `key.flac` and later `key.codes.npy`; beside it lies `name-000000.idx`
(`bcaudio/data/index_file.py`) with offset and size of every member, checksums and totals. The index is written last: a shard
without one does not exist. Equal samples give equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bcaudio.data.index_file import Entry, Written, entry_of, index_path, open_index, pack_index
from bcaudio.data.schema import Sample
from bcaudio.data.storage import Place, as_place, file_name, is_url, join, read_range, remove, upload
from bcaudio.recipe.errors import naming_full_disk

SAMPLE_RATE = 24_000
BLOCK = 512  # tar header size; a member's header lies one block before its data


def shard_path(folder: Place, name: str, number: int) -> Place:
    """Path or URL of shard `number` of `name` ("numbers-train") in `folder`."""
    return join(folder, f"{name}-{number:06d}.tar")


def write_shards(
    samples: Iterable[tuple[Sample, np.ndarray | None]],
    folder: Place,
    name: str,
    samples_per_shard: int,
    fingerprint: dict[str, Any],
) -> list[Place]:
    """Write samples into `folder/name-000000.tar`, ... with their indices.

    Args:
        samples: (sample, waveform float [N] at 24 kHz in [-1, 1], or None for text only), in order.
        folder: created when missing; a URL too: shards are then made in a temporary folder and uploaded, the index last.
        name: `corpus-split`, e.g. "numbers-train".
        samples_per_shard: at most so many samples per tar.
        fingerprint: what the shards were made with; stored in every index.

    Returns:
        The paths of the tars. No sample gives no shard.

    Raises:
        ValueError: samples_per_shard < 1, the same key twice, or a waveform unlike `sample.duration_s`.
    """
    if samples_per_shard < 1:
        raise ValueError(f"shards {name}: samples_per_shard is {samples_per_shard}; it must be at least 1")
    paths: list[Place] = []
    stream = iter(samples)
    while chunk := list(itertools.islice(stream, samples_per_shard)):
        paths.append(write_shard(chunk, shard_path(folder, name, len(paths)), fingerprint))
    return paths


def write_shard(samples: Iterable[tuple[Sample, np.ndarray | None]], tar: Place, fingerprint: dict[str, Any]) -> Place:
    """Write one shard (see `write_shards`): tar and index appear complete or not at all. Returns `tar`."""
    return _write_members(((sample, _members(sample, waveform)) for sample, waveform in samples), tar, fingerprint)


def _members(sample: Sample, waveform: np.ndarray | None) -> dict[str, bytes]:
    members = {"json": sample.to_json().encode()}
    if waveform is not None:
        if waveform.ndim != 1 or abs(len(waveform) / SAMPLE_RATE - sample.duration_s) > 0.01:
            raise ValueError(
                f"sample {sample.key!r}: waveform of shape {waveform.shape} is {waveform.size / SAMPLE_RATE:.3f} s "
                f"at {SAMPLE_RATE} Hz, but duration_s is {sample.duration_s}; set duration_s from the waveform"
            )
        buffer = io.BytesIO()
        soundfile.write(buffer, np.clip(waveform, -1.0, 1.0), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
        members["flac"] = buffer.getvalue()
    if sample.codes is not None:
        members["codes.npy"] = _npy(sample.codes)
    return members


def _npy(codes: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(codes), allow_pickle=False)
    return buffer.getvalue()


def _write_members(samples: Iterable[tuple[Sample, dict[str, bytes]]], tar: Place, fingerprint: dict[str, Any]) -> Place:
    tar = as_place(tar)
    if is_url(tar):
        with tempfile.TemporaryDirectory(prefix="bcaudio-") as folder:
            made = _write_local(samples, Path(folder) / file_name(tar), fingerprint)
            remove(index_path(tar))
            upload(made, str(tar))
            upload(Path(index_path(made)), str(index_path(tar)))
        return tar
    return _write_local(samples, Path(tar), fingerprint)


def _write_local(samples: Iterable[tuple[Sample, dict[str, bytes]]], tar: Path, fingerprint: dict[str, Any]) -> Path:
    from webdataset import TarWriter  # costs a second; readers do without it

    tar.parent.mkdir(parents=True, exist_ok=True)
    index = Path(index_path(tar))
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in (tar, index)]
    written: list[tuple[Entry, str, dict[str, int]]] = []
    seen: set[str] = set()
    try:
        with naming_full_disk(tar), open(temporary[0], "wb") as stream:
            with TarWriter(stream, user="", group="", mtime=0, encoder=False) as writer:
                for sample, members in samples:
                    if sample.key in seen:
                        raise ValueError(f"{tar}: key {sample.key!r} comes twice; keys must be unique within a shard")
                    seen.add(sample.key)
                    writer.write({"__key__": sample.key, **members})
                    sizes = {kind: len(data) for kind, data in members.items()}
                    written.append((entry_of(sample), sample.source, sizes))
            stream.flush()
            os.fsync(stream.fileno())
        with naming_full_disk(index), open(temporary[1], "wb") as stream:
            stream.write(_index_of(temporary[0], tar.name, written, fingerprint))
            stream.flush()
            os.fsync(stream.fileno())
        index.unlink(missing_ok=True)  # between the two renames no index may speak of another tar
        os.replace(temporary[0], tar)
        os.replace(temporary[1], index)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return tar


def _index_of(tar: Path, name: str, written: list[tuple[Entry, str, dict[str, int]]], fingerprint: dict[str, Any]) -> bytes:
    """The index of a tar that was just written; it is read once, for the checksums."""
    samples, digest = [], hashlib.sha256()
    with open(tar, "rb") as stream:
        for entry, source, sizes in written:
            members, start = {}, stream.tell()
            end = start
            for kind in sorted(sizes):  # as TarWriter writes the members of a sample, each padded to full blocks
                members[kind] = (end + BLOCK, sizes[kind])
                end += BLOCK + padded(sizes[kind])
            data = stream.read(end - start)
            digest.update(data)
            samples.append(Written(entry, source, members, zlib.crc32(data)))
        digest.update(stream.read())
        num_bytes = stream.tell()
    return pack_index(name, digest.hexdigest(), num_bytes, fingerprint, samples)


def padded(size: int) -> int:
    """Bytes that a member of `size` takes in a tar, without its header."""
    return -(-size // BLOCK) * BLOCK


def read_member(path: Place, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of a tar. Raises ValueError when the file ends before, FileNotFoundError when there is none."""
    data = read_range(path, offset, size)
    if len(data) != size:
        raise ValueError(
            f"{path}: ends at byte {offset + len(data)}, but its index says {offset + size}: the tar was cut; "
            "copy it again or delete it and run data_prep again"
        )
    return data


def read_codes(data: bytes, where: str) -> np.ndarray:
    """int16 [T, K] of a `codes.npy` member; `where` names it in the error."""
    try:
        codes = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{where}: codes.npy cannot be read ({error}); run data_prep.encode_codes again") from error
    return codes


def rewrite_with_codes(
    tar: Place, out_folder: Place, codes: Mapping[str, tuple[np.ndarray, list[int]]], fingerprint: dict[str, Any]
) -> Place:
    """Copy a shard into `out_folder` with `codes.npy` members; audio bytes stay as they are.

    Args:
        tar: a shard of `write_shards`.
        codes: key -> (int [T, K], frames per span). Text-only samples need no entry and are copied.
        fingerprint: stored in the new index (the tokenizer's, for instance).

    Raises:
        ValueError: a sample with audio has no codes, a key is not in the shard, a code does not fit int16, or the frame
            counts disagree.
    """
    columns = open_index(tar).columns()
    places = {columns.key(row): columns.members(row) for row in range(len(columns.records))}
    missing = [key for key, members in places.items() if "flac" in members and key not in codes]
    for problem, names in (("no codes for", missing), ("codes for keys not in the shard:", sorted(set(codes) - set(places)))):
        if names:
            listed = f"{', '.join(names[:3])} ({len(names)} in all)"
            raise ValueError(f"{tar}: {problem} {listed}; encode exactly the samples of this shard")

    def samples() -> Iterator[tuple[Sample, dict[str, bytes]]]:
        for key, places_of_key in places.items():
            members = {kind: read_member(tar, *place) for kind, place in places_of_key.items()}
            sample = Sample.from_json(members["json"])
            if key in codes:
                array, counts = codes[key]
                if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int16).max):
                    raise ValueError(f"sample {sample.key!r}: codes from {array.min()} to {array.max()} do not fit 0..32767")
                sample = dataclasses.replace(sample, codes=array.astype(np.int16), span_num_codes=tuple(int(n) for n in counts))
                members |= {"json": sample.to_json().encode(), "codes.npy": _npy(sample.codes)}
            yield sample, members

    return _write_members(samples(), join(out_folder, file_name(tar)), fingerprint)
