"""Random access to the samples of many shards through their offset indices; no tar is ever scanned."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from bcaudio.data.schema import Sample
from bcaudio.data.shards import ENTRY_FIELDS, SAMPLE_RATE, read_codes, read_index


@dataclass(frozen=True)
class Entry:
    """What planning needs to know of a sample without reading it. `num_codes` counts the frames of all spans."""

    key: str
    corpus: str
    split: str
    language: str
    speaker: str
    duration_s: float
    num_codes: int
    num_text_chars: int


class ShardIndex:
    """All samples of some shards, in the order of the sorted tar paths.

    Files are opened lazily, once per process and shard, so an index may cross fork and spawn.

    Args:
        paths: tar files or globs; each must match at least one tar. A tar named twice counts once.

    Raises:
        FileNotFoundError: a path matches nothing, or an index is missing.
        ValueError: no path, a tar whose size is not what its index says, the same key in two shards, or shards whose
            fingerprints differ.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        if isinstance(paths, str | Path):
            paths = [paths]
        self.tars = expand_paths(paths)
        self.entries: list[Entry] = []
        self._places: list[tuple[int, dict[str, list[int]]]] = []
        self.fingerprint: dict[str, Any] = {}
        owners: dict[str, Path] = {}
        for number, tar in enumerate(self.tars):
            index = read_index(tar)
            size = tar.stat().st_size
            if size != index["num_bytes"]:
                raise ValueError(
                    f"{tar}: {size} bytes on disk, but its index says {index['num_bytes']}: the tar was cut or replaced; "
                    "copy it again, or delete it and run data_prep again"
                )
            self._agree(tar, number, index["fingerprint"])
            for item in index["samples"]:
                if item["key"] in owners:
                    raise ValueError(f"{tar}: key {item['key']!r} is also in {owners[item['key']]}; name each corpus once")
                owners[item["key"]] = tar
                copied = {name: item[name] for name in ENTRY_FIELDS}
                self.entries.append(Entry(**copied, num_codes=sum(item["span_num_codes"])))
                self._places.append((number, item["members"]))
        self.durations_s = np.array([entry.duration_s for entry in self.entries], dtype=np.float64)
        self.num_codes = np.array([entry.num_codes for entry in self.entries], dtype=np.int64)
        self._streams: dict[tuple[int, int], BinaryIO] = {}

    def _agree(self, tar: Path, number: int, fingerprint: dict[str, Any]) -> None:
        if number == 0:
            self.fingerprint = fingerprint
        elif fingerprint != self.fingerprint:
            field = next(k for k in sorted({*fingerprint, *self.fingerprint}) if fingerprint.get(k) != self.fingerprint.get(k))
            raise ValueError(
                f"fingerprints differ in {field!r}: {self.fingerprint.get(field)!r} in {self.tars[0]}, "
                f"{fingerprint.get(field)!r} in {tar}; use shards made by one recipe (and one tokenizer)"
            )

    def __len__(self) -> int:
        return len(self.entries)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_streams": {}}

    def _read(self, i: int, kind: str) -> bytes:
        number, members = self._places[i]
        offset, size = members[kind]
        owner = (os.getpid(), number)  # a forked child must not share its parent's file position
        if owner not in self._streams:
            self._streams[owner] = open(self.tars[number], "rb")  # noqa: SIM115  (kept open for the life of the process)
        stream = self._streams[owner]
        stream.seek(offset)
        data = stream.read(size)
        if len(data) != size:
            raise ValueError(
                f"{self.tars[number]}: ends inside {self.entries[i].key}.{kind}; the tar is shorter than its index says: "
                "copy it again, or delete it and run data_prep again"
            )
        return data

    def sample(self, i: int) -> Sample:
        """Sample `i` with its codes if it has any. Raises ValueError naming file and key when it cannot be read."""
        number, members = self._places[i]
        where = f"{self.tars[number]}: {self.entries[i].key}"
        codes = read_codes(self._read(i, "codes.npy"), where) if "codes.npy" in members else None
        try:
            sample = Sample.from_json(self._read(i, "json"), codes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if sample.key != self.entries[i].key:
            raise ValueError(f"{where}: holds {sample.key!r}; tar and index do not belong together, make the shard again")
        return sample

    def waveform(self, i: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """Audio of sample `i`: float32 [N] at `sample_rate` Hz. Raises ValueError for a text-only sample or broken audio."""
        number, members = self._places[i]
        where = f"{self.tars[number]}: {self.entries[i].key}"
        if "flac" not in members:
            raise ValueError(f"{where}: has no audio (a text-only sample); take a corpus with audio")
        try:
            waveform, stored_rate = soundfile.read(io.BytesIO(self._read(i, "flac")), dtype="float32")
        except soundfile.SoundFileError as error:
            raise ValueError(f"{where}: flac cannot be decoded ({error}); verify the shard with bcaudio shards verify") from error
        if stored_rate == sample_rate:
            return waveform
        from bcaudio.audio.io import resample

        return resample(waveform, stored_rate, sample_rate)


def expand_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Tar files that paths and globs name, sorted, each once. Raises FileNotFoundError where one matches nothing."""
    if not paths:
        raise ValueError("ShardIndex: no paths given; name tar files or globs such as data/shards/numbers-train-*.tar")
    tars: set[Path] = set()
    for path in paths:
        matches = [str(path)] if os.path.exists(path) else glob.glob(str(path), recursive=True)
        matches = [match for match in matches if match.endswith(".tar") and os.path.isfile(match)]
        if not matches:
            raise FileNotFoundError(
                f"{path}: no such tar file, and as a glob it matches none; make shards with python -m data_prep run"
            )
        tars.update(Path(match) for match in matches)
    return sorted(tars)
