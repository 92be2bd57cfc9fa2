"""Random access to the samples of many shards through their offset indices; no tar is ever scanned."""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from bcaudio.data.index_file import LABELS, TICKS, Columns, Entry, IndexFile, open_indices
from bcaudio.data.schema import Sample
from bcaudio.data.shards import SAMPLE_RATE, read_codes
from bcaudio.data.storage import Place, file_size, find, is_url, read_range

KEPT_OPEN = 128  # tars and indices that a process holds open at once; the rest is opened again when needed
KEYS_COMPARED = 1_000_000  # more samples are opened without looking for a key that two shards have; verify looks always


class ShardIndex:
    """All samples of some shards, in the order of the sorted tar paths.

    Opening reads the headers of the indices alone, so it costs a fraction of a millisecond per shard. Everything per sample comes
    from the mapped indices: columns as arrays, and single entries on demand. Files are opened in the process that reads, so an
    index may cross fork and spawn.

    Args:
        paths: tar files, URLs (`s3://...`) or globs of either; each must match at least one tar. A tar named twice counts once.

    Raises:
        FileNotFoundError: a path matches nothing, or an index is missing.
        ValueError: no path, a damaged index, a tar whose size is not what its index says, the same key twice, or shards whose
            fingerprints differ.
    """

    def __init__(self, paths: Place | Sequence[Place]) -> None:
        self.tars = expand_paths([paths] if isinstance(paths, str | Path) else paths)
        self._files = open_indices(self.tars)
        self.fingerprint: dict[str, Any] = self._files[0].header["fingerprint"]
        copies: dict[str, Place] = {}
        for tar, file in zip(self.tars, self._files, strict=True):
            self._check(tar, file)
            other = copies.setdefault(file.header["sha256"], tar)
            if other is not tar and file.num_samples:
                key = file.columns().key(0)
                raise ValueError(f"{tar}: key {key!r} is also in {other}: the shards are copies; name each corpus once")
        # sample i lies in the last shard that starts at or before i
        self._starts = np.cumsum([0, *(file.num_samples for file in self._files)]).tolist()
        self._open_lazily()
        if len(self) <= KEYS_COMPARED:
            check_keys(self.tars, self._files)

    def _check(self, tar: Place, file: IndexFile) -> None:
        size, header = file_size(tar), file.header
        if size != header["num_bytes"]:
            raise ValueError(
                f"{tar}: {size} bytes on disk, but its index says {header['num_bytes']}: the tar was cut or replaced; "
                "copy it again, or delete it and run data_prep again"
            )
        fingerprint = header["fingerprint"]
        if fingerprint != self.fingerprint:
            field = next(k for k in sorted({*fingerprint, *self.fingerprint}) if fingerprint.get(k) != self.fingerprint.get(k))
            raise ValueError(
                f"fingerprints differ in {field!r}: {self.fingerprint.get(field)!r} in {self.tars[0]}, "
                f"{fingerprint.get(field)!r} in {tar}; use shards made by one recipe (and one tokenizer)"
            )

    def _open_lazily(self) -> None:
        self._columns = lru_cache(maxsize=KEPT_OPEN)(lambda number: self._files[number].columns())
        self._stream = lru_cache(maxsize=KEPT_OPEN)(self._open_tar)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_columns", "_stream")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_lazily()

    def __len__(self) -> int:
        return self._starts[-1]

    def _all_columns(self) -> Iterable[Columns]:
        return (file.columns() for file in self._files)  # a pass over all needs none of them a second time

    def _locate(self, i: int) -> tuple[int, Columns, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = bisect_right(self._starts, i) - 1
        return number, self._columns(number), i - self._starts[number]

    @cached_property
    def durations_s(self) -> np.ndarray:
        """Seconds of every sample, float64 [N]."""
        return self._joined("duration", np.float64) / TICKS

    @cached_property
    def num_codes(self) -> np.ndarray:
        """Frames of codes of every sample, int64 [N]."""
        return self._joined("num_codes", np.int64)

    @cached_property
    def num_text_chars(self) -> np.ndarray:
        """Characters of text of every sample, int64 [N]."""
        return self._joined("num_text_chars", np.int64)

    @cached_property
    def keys(self) -> np.ndarray:
        """ASCII keys of all samples, bytes [N]; `key(i)` is the string of one."""
        joined = np.empty(len(self), f"S{max(file.header['key_bytes'] for file in self._files)}")
        for start, columns in zip(self._starts[:-1], self._all_columns(), strict=True):
            joined[start : start + len(columns.keys)] = columns.keys
        return joined

    def _joined(self, name: str, dtype: type) -> np.ndarray:
        joined = np.empty(len(self), dtype)
        for start, columns in zip(self._starts[:-1], self._all_columns(), strict=True):
            joined[start : start + len(columns.records)] = columns.records[name]
        return joined

    def labels(self, name: str) -> tuple[list[str], np.ndarray]:
        """Names, and the place of every sample's name among them, int32 [N].

        Args:
            name: corpus, split, language, speaker or licence.

        Raises:
            ValueError: an index gives an id without a name.
        """
        names: dict[str, int] = {}
        ids = np.empty(len(self), np.int32)
        for start, columns in zip(self._starts[:-1], self._all_columns(), strict=True):
            places = np.array([names.setdefault(label, len(names)) for label in columns.tables[name]], np.int32)
            local = columns.records[name]
            if len(local) and local.max() >= len(places):
                columns.entry(int(local.argmax()))  # raises, naming index and sample
            ids[start : start + len(local)] = places[local]
        return list(names), ids

    def where(self, **wanted: str | Sequence[str]) -> np.ndarray:
        """Which samples have one of the wanted names, bool [N]: `where(language=["zh", "en"], split="test")`.

        Raises:
            ValueError: another name than corpus, split, language, speaker and licence.
        """
        mask = np.ones(len(self), bool)
        for name, values in wanted.items():
            if name not in LABELS:
                raise ValueError(f"where: {name!r} is not in the index; it has {', '.join(LABELS)}")
            accepted = {values} if isinstance(values, str) else set(values)
            names, ids = self.labels(name)
            mask &= np.array([label in accepted for label in names], bool)[ids]
        return mask

    def key(self, i: int) -> str:
        """Key of sample `i`."""
        _, columns, row = self._locate(i)
        return columns.key(row)

    def entry(self, i: int) -> Entry:
        """What the index says of sample `i`."""
        _, columns, row = self._locate(i)
        return columns.entry(row)

    def find(self, key: str) -> int | None:
        """Place of the sample with this key, or None."""
        for start, columns in zip(self._starts[:-1], self._all_columns(), strict=True):
            if len(rows := np.flatnonzero(columns.keys == key.encode())):
                return start + int(rows[0])
        return None

    def _open_tar(self, number: int) -> BinaryIO:
        return open(self.tars[number], "rb", buffering=0)  # closed when the cache drops it

    def _read(self, number: int, columns: Columns, row: int, kind: str, place: tuple[int, int]) -> bytes:
        offset, size = place
        if is_url(self.tars[number]):
            data = read_range(self.tars[number], offset, size)
        else:  # at its own position, since a forked child shares the file with its parent
            data = os.pread(self._stream(number).fileno(), size, offset)
        if len(data) != size:
            raise ValueError(
                f"{self.tars[number]}: ends inside {columns.key(row)}.{kind}; the tar is shorter than its index says: "
                "copy it again, or delete it and run data_prep again"
            )
        return data

    def sample(self, i: int) -> Sample:
        """Sample `i` with its codes if it has any. Raises ValueError naming file and key when it cannot be read."""
        number, columns, row = self._locate(i)
        members, key = columns.members(row), columns.key(row)
        where = f"{self.tars[number]}: {key}"
        codes = None
        if "codes.npy" in members:
            codes = read_codes(self._read(number, columns, row, "codes.npy", members["codes.npy"]), where)
        try:
            sample = Sample.from_json(self._read(number, columns, row, "json", members.get("json", (0, 0))), codes)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if sample.key != key:
            raise ValueError(f"{where}: holds {sample.key!r}; tar and index do not belong together, make the shard again")
        return sample

    def waveform(self, i: int, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
        """Audio of sample `i`: float32 [N] at `sample_rate` Hz. Raises ValueError for a text-only sample or broken audio."""
        number, columns, row = self._locate(i)
        members, where = columns.members(row), f"{self.tars[number]}: {columns.key(row)}"
        if "flac" not in members:
            raise ValueError(f"{where}: has no audio (a text-only sample); take a corpus with audio")
        data = self._read(number, columns, row, "flac", members["flac"])
        try:
            waveform, stored_rate = soundfile.read(io.BytesIO(data), dtype="float32")
        except soundfile.SoundFileError as error:
            raise ValueError(f"{where}: flac cannot be decoded ({error}); verify the shard with bcaudio shards verify") from error
        if stored_rate == sample_rate:
            return waveform
        from bcaudio.audio.io import resample

        return resample(waveform, stored_rate, sample_rate)


def expand_paths(paths: Sequence[Place]) -> list[Place]:
    """Tar files that paths, URLs and globs name, sorted, each once. Raises FileNotFoundError where one matches nothing."""
    if not paths:
        raise ValueError("ShardIndex: no paths given; name tar files or globs such as data/shards/numbers-train-*.tar")
    tars: set[Place] = set()
    for path in paths:
        matches = [match for match in find(path) if str(match).endswith(".tar")]
        if not matches:
            raise FileNotFoundError(
                f"{path}: no such tar file, and as a glob it matches none; make shards with python -m data_prep run"
            )
        tars.update(matches)
    # paths by their parts, as pathlib sorts them; URLs by their text, behind them
    return sorted(tars, key=lambda tar: (is_url(tar), str(tar).split("/")))


def check_keys(tars: Sequence[Place], files: Sequence[IndexFile]) -> None:
    """Look for a key that comes twice, within shards or across them; eight bytes of memory per sample.

    Raises:
        ValueError: naming the key and its tars.
    """
    ordered = np.sort(np.concatenate([_hashes(file.columns().keys) for file in files]))
    suspects = ordered[1:][ordered[1:] == ordered[:-1]]
    owners: dict[bytes, Place] = {}
    for tar, file in zip(tars, files, strict=True) if len(suspects) else ():
        keys = file.columns().keys
        for key in keys[np.isin(_hashes(keys), suspects)].tolist():  # hashes may agree by chance
            if key in owners:
                raise ValueError(f"{tar}: key {key.decode('ascii', 'replace')!r} is also in {owners[key]}; name each corpus once")
            owners[key] = tar


def _hashes(keys: np.ndarray) -> np.ndarray:
    """64 bits of every key, uint64 [N]; the same for keys of another width."""
    found = np.zeros(len(keys), np.uint64)
    for word in keys.view("<u8").reshape(len(keys), keys.itemsize // 8).T:
        mixed = (found ^ word) * np.uint64(0x9E3779B97F4A7C15)
        found = np.where(word != 0, mixed ^ (mixed >> np.uint64(32)), found)  # an empty word is padding
    return found
