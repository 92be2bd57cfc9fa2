"""The tar format: webdataset shards with an offset index beside each (docs/design.md, section 3).

A shard is `name-000000.tar` holding `key.json`, `key.flac` and later `key.codes.npy`; beside it lies
`name-000000.index.json` with offset and size of every member, the counts and the sha256 of the tar. The index is written
last: a shard without one does not exist. Equal samples give equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from bcaudio.data.schema import Sample

FORMAT = "bcaudio-shard-1"
SAMPLE_RATE = 24_000
_BLOCK = 512  # tar header size; a member's header lies one block before its data
ENTRY_FIELDS = ("key", "corpus", "split", "language", "speaker", "duration_s", "num_text_chars")


def index_path(tar: str | Path) -> Path:
    """`x/numbers-train-000000.tar` -> `x/numbers-train-000000.index.json`."""
    return Path(tar).with_suffix(".index.json")


def shard_path(folder: str | Path, name: str, number: int) -> Path:
    """Path of shard `number` of `name` ("numbers-train") in `folder`."""
    return Path(folder) / f"{name}-{number:06d}.tar"


def write_shards(
    samples: Iterable[tuple[Sample, np.ndarray | None]],
    folder: str | Path,
    name: str,
    samples_per_shard: int,
    fingerprint: dict[str, Any],
) -> list[Path]:
    """Write samples into `folder/name-000000.tar`, ... with their indices.

    Args:
        samples: (sample, waveform float [N] at 24 kHz in [-1, 1], or None for text only), in order.
        folder: created when missing.
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
    paths: list[Path] = []
    stream = iter(samples)
    while chunk := list(itertools.islice(stream, samples_per_shard)):
        paths.append(write_shard(chunk, shard_path(folder, name, len(paths)), fingerprint))
    return paths


def write_shard(samples: Iterable[tuple[Sample, np.ndarray | None]], tar: str | Path, fingerprint: dict[str, Any]) -> Path:
    """Write one shard (see `write_shards`): tar and index appear complete or not at all."""
    return _write_members(((sample, _members(sample, waveform)) for sample, waveform in samples), Path(tar), fingerprint)


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


def _write_members(samples: Iterable[tuple[Sample, dict[str, bytes]]], tar: Path, fingerprint: dict[str, Any]) -> Path:
    from webdataset import TarWriter  # costs a second; readers do without it

    tar.parent.mkdir(parents=True, exist_ok=True)
    index = index_path(tar)
    temporary = [path.with_name(f"{path.name}.{os.getpid()}.tmp") for path in (tar, index)]
    entries: list[dict[str, Any]] = []
    seen: set[str] = set()
    try:
        with open(temporary[0], "wb") as stream:
            with TarWriter(stream, user="", group="", mtime=0, encoder=False) as writer:
                for sample, members in samples:
                    if sample.key in seen:
                        raise ValueError(f"{tar}: key {sample.key!r} comes twice; keys must be unique within a shard")
                    seen.add(sample.key)
                    writer.write({"__key__": sample.key, **members})
                    entries.append(_entry(sample, members))
            stream.flush()
            os.fsync(stream.fileno())
        offset = 0  # TarWriter writes the members of a sample in alphabetical order, each padded to full blocks
        for entry in entries:
            for kind in sorted(entry["members"]):
                size = entry["members"][kind]
                entry["members"][kind] = [offset + _BLOCK, size]
                offset += _BLOCK + -(-size // _BLOCK) * _BLOCK
        content = {
            "format": FORMAT,
            "shard": tar.name,
            "sha256": _sha256(temporary[0]),
            "num_bytes": temporary[0].stat().st_size,
            "num_samples": len(entries),
            "fingerprint": fingerprint,
            "samples": entries,
        }
        temporary[1].write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        index.unlink(missing_ok=True)  # between the two renames no index may speak of another tar
        os.replace(temporary[0], tar)
        os.replace(temporary[1], index)
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)
    return tar


def _entry(sample: Sample, members: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        "key": sample.key,
        "corpus": sample.corpus,
        "split": sample.split,
        "language": sample.language,
        "speaker": sample.speaker,
        "duration_s": round(sample.duration_s, 4),
        "num_text_chars": len(sample.text),
        "span_num_codes": list(sample.span_num_codes),
        "members": {kind: len(data) for kind, data in members.items()},
    }


def read_index(tar: str | Path) -> dict[str, Any]:
    """The index beside a tar.

    Raises:
        FileNotFoundError: no index: the shard is unfinished.
        ValueError: the index is not one of ours.
    """
    path = index_path(tar)
    if not path.exists():
        raise FileNotFoundError(
            f"{tar}: its index {path.name} is missing, so the shard is unfinished; make it again with python -m data_prep run"
        )
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); delete it and make the shard again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        found = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise ValueError(f"{path}: format is {found!r}, expected {FORMAT!r}; make the shard again")
    return index


def read_member(path: str | Path, offset: int, size: int) -> bytes:
    """`size` bytes from `offset` of a tar. Raises ValueError when the file ends before."""
    with open(path, "rb") as stream:
        stream.seek(offset)
        data = stream.read(size)
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
    tar: str | Path, out_folder: str | Path, codes: Mapping[str, tuple[np.ndarray, list[int]]], fingerprint: dict[str, Any]
) -> Path:
    """Copy a shard into `out_folder` with `codes.npy` members; audio bytes stay as they are.

    Args:
        tar: a shard of `write_shards`.
        codes: key -> (int [T, K], frames per span). Text-only samples need no entry and are copied.
        fingerprint: stored in the new index (the tokenizer's, for instance).

    Raises:
        ValueError: a sample with audio has no codes, a key is not in the shard, a code does not fit int16, or the frame
            counts disagree.
    """
    tar, out = Path(tar), Path(out_folder) / Path(tar).name
    index = read_index(tar)
    keys = {entry["key"] for entry in index["samples"]}
    missing = [e["key"] for e in index["samples"] if "flac" in e["members"] and e["key"] not in codes]
    for problem, names in (("no codes for", missing), ("codes for keys not in the shard:", sorted(set(codes) - keys))):
        if names:
            listed = f"{', '.join(names[:3])} ({len(names)} in all)"
            raise ValueError(f"{tar}: {problem} {listed}; encode exactly the samples of this shard")

    def samples() -> Iterator[tuple[Sample, dict[str, bytes]]]:
        for entry in index["samples"]:
            members = {kind: read_member(tar, *place) for kind, place in entry["members"].items()}
            sample = Sample.from_json(members["json"])
            if entry["key"] in codes:
                array, counts = codes[entry["key"]]
                if array.size and (array.min() < 0 or array.max() > np.iinfo(np.int16).max):
                    raise ValueError(f"sample {sample.key!r}: codes from {array.min()} to {array.max()} do not fit 0..32767")
                sample = dataclasses.replace(sample, codes=array.astype(np.int16), span_num_codes=tuple(int(n) for n in counts))
                members |= {"json": sample.to_json().encode(), "codes.npy": _npy(sample.codes)}
            yield sample, members

    return _write_members(samples(), out, fingerprint)


def verify_shard(tar: str | Path) -> list[str]:
    """Everything wrong with a shard, one line per problem, each naming the file; an empty list means sound.

    Checks size, checksum, every header at the place the index names, a plain sequential scan against the indexed count (a corrupt
    header in the middle ends such a scan silently), and that every JSON, flac and codes member decodes.
    """
    tar = Path(tar)
    if not tar.exists():
        return [f"{tar}: the file is missing"]
    try:
        index = read_index(tar)
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    problems: list[str] = []
    size = tar.stat().st_size
    if size != index["num_bytes"]:
        problems.append(f"{tar}: {size} bytes, but its index says {index['num_bytes']}")
    checksum = _sha256(tar)
    if checksum != index["sha256"]:
        problems.append(f"{tar}: sha256 is {checksum[:12]}..., but its index says {index['sha256'][:12]}...")
    entries = index["samples"]
    if len(entries) != index["num_samples"]:
        problems.append(f"{tar}: its index lists {len(entries)} samples, but its num_samples is {index['num_samples']}")
    expected = {f"{entry['key']}.{kind}" for entry in entries for kind in entry["members"]}
    found = _scan(tar)
    if found != expected:
        problems.append(
            f"{tar}: a scan finds {len(found)} members, its index has {len(expected)}; "
            f"first difference {min(found ^ expected)!r} (a corrupt header ends a scan)"
        )
    for entry in entries:
        problems.extend(_verify_entry(tar, entry))
    return problems


def _verify_entry(tar: Path, entry: dict[str, Any]) -> list[str]:
    problems: list[str] = []
    members: dict[str, bytes] = {}
    for kind, (offset, size) in entry["members"].items():
        name = f"{entry['key']}.{kind}"
        try:
            header = tarfile.TarInfo.frombuf(read_member(tar, offset - _BLOCK, _BLOCK), "utf-8", "strict")
            if (header.name, header.size) != (name, size):
                problems.append(f"{tar}: header of {name} says {header.name!r}, {header.size} bytes; its index says {size} bytes")
            members[kind] = read_member(tar, offset, size)
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            problems.append(f"{tar}: header of {name} is corrupt ({error})")
        except ValueError as error:
            problems.append(f"{name}: {error}")
    try:
        codes = read_codes(members["codes.npy"], f"{tar}: {entry['key']}") if "codes.npy" in members else None
        if "json" in members:
            sample = Sample.from_json(members["json"], codes)
            if sample.key != entry["key"]:
                problems.append(f"{tar}: sample {entry['key']!r} calls itself {sample.key!r}")
            if "flac" in members:
                duration_s = len(soundfile.read(io.BytesIO(members["flac"]), dtype="int16")[0]) / SAMPLE_RATE
                if abs(duration_s - sample.duration_s) > 0.01:
                    problems.append(f"{tar}: {sample.key}.flac lasts {duration_s:.3f} s, but duration_s is {sample.duration_s}")
    except (ValueError, soundfile.SoundFileError) as error:
        problems.append(f"{tar}: {entry['key']}: {error}")
    return problems


def _scan(tar: Path) -> set[str]:
    names: set[str] = set()
    try:
        with tarfile.open(tar) as archive:
            for member in archive:
                names.add(member.name)
    except (tarfile.TarError, EOFError):
        pass  # what was found before the break is compared with the index
    return names


def _sha256(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
