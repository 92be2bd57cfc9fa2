"""Recordings, wherever they lie: a plain file, a URL, a member of a tar, a row of a parquet file; all of it or a stretch."""

from __future__ import annotations

import importlib.util
import io
import math
import os
import re
import struct
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import soundfile

from bcaudio.audio.io import MAX_CHANNELS, read_audio, resample
from data_prep.utterance import MissingExtra, Rejected

SLACK_S = 0.1  # a transcript may end this much after its recording: times are rounded
RATES_HZ = (4_000, 192_000)  # what a recording of speech can have
_INSIDE = re.compile(r"(.+\.(?:tar|parquet))#(.+)", re.DOTALL)
_BY_AV = frozenset((".g722", ".m4a", ".mp4", ".aac", ".webm"))  # libsndfile reads the others, opus included
_MP3_SLACK_S = 0.5  # encoders differ in how much padding the stated length of an mp3 holds
_BLOCK = 1 << 20  # frames read at a time, so that a header which lies about its length costs no memory
_UNKNOWN_SIZE = 0x7FFF0000  # a wav written to a pipe states such a size, or more


def read_recording(
    audio: str, root: Path, start_s: float, end_s: float | None, sample_rate: int, max_duration_s: float = math.inf
) -> np.ndarray:
    """Decode one recording, or the stretch of it that is asked for, to mono float32 [N] at `sample_rate` Hz.

    wav, flac, ogg, opus and mp3 are read from `start_s` to `end_s` only; g722, m4a and webm are decoded whole and cut.

    Args:
        audio: a path, absolute or relative to `root`; a URL that fsspec opens; `x.tar#member` or `x.parquet#row` of either.
        root: folder that relative paths start from and may not leave.
        start_s, end_s: the stretch in seconds; `end_s` None: to the end.
        sample_rate: Hz of the result.
        max_duration_s: a longer stretch is refused before it is decoded, so that a recording of hours costs no memory.

    Raises:
        Rejected: "not found", "empty file", "unreadable", "no such stretch", "too long", "wrong sample rate in the header" or
            "unsafe path".
        ValueError: a package is missing that this kind of recording needs; the message says which `pip install` brings it.
    """
    if not 0 <= start_s < math.inf or (end_s is not None and not start_s < end_s < math.inf):
        raise Rejected("no such stretch", f"{start_s}-{end_s} s")
    with _opened(audio, root) as (file, name):
        if file.seek(0, os.SEEK_END) == 0:
            raise Rejected("empty file", "0 bytes")
        file.seek(0)
        if PurePosixPath(name).suffix.lower() in _BY_AV:
            waveform = _cut(_decode_by_av(file, name, sample_rate, start_s, end_s, max_duration_s), sample_rate, start_s, end_s)
        else:
            channels, rate = _decode(file, start_s, end_s, max_duration_s)
            waveform = resample(channels.mean(axis=1), rate, sample_rate)
    if not np.isfinite(waveform).all():
        raise Rejected("unreadable", f"{int((~np.isfinite(waveform)).sum())} values are NaN or infinite")
    return waveform


def open_binary(path: str | Path) -> BinaryIO:
    """Open a local path, or a URL through fsspec, for reading.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: fsspec, or the package behind this kind of URL, is not installed.
    """
    if "://" not in str(path):
        return open(path, "rb")
    try:
        import fsspec

        return fsspec.open(str(path), "rb").open()
    except ImportError as error:
        raise MissingExtra(f"{path}: URLs need fsspec ({error}); pip install bcaudio[remote]") from error


@contextmanager
def _opened(audio: str, root: Path) -> Iterator[tuple[BinaryIO, str]]:
    """A seekable file with the encoded bytes, and a name whose suffix tells the format."""
    inside = _INSIDE.fullmatch(audio)
    path = _located(inside[1] if inside else audio, root)
    with ExitStack() as stack:
        try:
            if inside and inside[1].endswith(".parquet"):
                yield _parquet_row(path, inside[2])
                return
            file = stack.enter_context(open_binary(path))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Rejected("not found", audio) from error
        except PermissionError as error:
            raise Rejected("unreadable", "permission denied") from error
        if inside:
            yield _tar_member(stack, file, path, inside[2]), inside[2]
        else:
            yield file, audio


def _located(path: str, root: Path) -> str:
    """An absolute path, or the URL as it is."""
    if "://" in path:
        return path
    if not Path(path).is_absolute() and os.path.normpath(path).startswith(".."):
        raise Rejected("unsafe path", path)
    full = root / path
    if not full.is_file():  # devices and pipes would never end
        raise Rejected("not found", path)
    return str(full)


def unsafe_member(name: str) -> bool:
    """Whether the name of a tar's member leads out of the folder that one would unpack it to."""
    return name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", name)


def _tar_member(stack: ExitStack, file: BinaryIO, path: str, name: str) -> BinaryIO:
    if unsafe_member(name):
        raise Rejected("unsafe path", name)
    try:
        tar = stack.enter_context(tarfile.TarFile(fileobj=file))
        if "://" in path:
            member = next((member for member in tar if member.name == name), None)
        else:
            state = os.fstat(file.fileno())
            member = _members(path, state.st_size, state.st_mtime_ns).get(name)
        if member is None:
            raise Rejected("not found", name)
        if member.issym() or member.islnk():
            raise Rejected("unsafe path", f"{name} is a link to {member.linkname}")
        inner = tar.extractfile(member)
    except (tarfile.TarError, EOFError) as error:
        raise Rejected("unreadable", f"tar: {error}") from error
    if inner is None:
        raise Rejected("not found", f"{name} is no file")
    return inner


@lru_cache(maxsize=8)
def _members(path: str, size: int, mtime_ns: int) -> dict[str, tarfile.TarInfo]:
    """What a tar holds; size and time of change are there so that a tar written anew is read anew."""
    with tarfile.open(path, "r:") as tar:
        return {member.name: member for member in tar}


def _parquet_row(path: str, row: str) -> tuple[BinaryIO, str]:
    if not row.isdecimal():
        raise Rejected("not found", f"row {row}")
    import_pyarrow(path)
    stamp = 0 if "://" in path else os.stat(path).st_mtime_ns
    starts, num_rows = _row_groups(path, stamp)
    if int(row) >= num_rows:
        raise Rejected("not found", f"row {row} of {num_rows}")
    group = max(number for number, start in enumerate(starts) if start <= int(row))
    content = _audio_column(path, stamp, group)[int(row) - starts[group]].as_py()
    if not content or content["bytes"] is None:
        raise Rejected("not found", f"row {row} holds no bytes")
    return io.BytesIO(content["bytes"]), content.get("path") or ""


def import_pyarrow(path: str | Path) -> None:
    """Raises ValueError, naming the `pip install`, where pyarrow is not installed."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingExtra(f"{path}: parquet needs pyarrow; pip install bcaudio[parquet]")


@lru_cache(maxsize=8)
def _row_groups(path: str, mtime_ns: int) -> tuple[tuple[int, ...], int]:
    """First row of every row group, and the number of rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_binary(path) as file:
            found = pyarrow.parquet.ParquetFile(file).metadata
    except pyarrow.ArrowInvalid as error:
        raise Rejected("unreadable", f"parquet: {error}") from error
    sizes = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
    return tuple(sum(sizes[:number]) for number in range(len(sizes))), found.num_rows


@lru_cache(maxsize=1)
def _audio_column(path: str, mtime_ns: int, group: int) -> object:
    """The column {bytes, path} of one row group: rows are asked for one after the other, so it is kept until the next group."""
    import pyarrow
    import pyarrow.parquet

    try:
        with open_binary(path) as file:
            parquet = pyarrow.parquet.ParquetFile(file)
            for field in parquet.schema_arrow:
                if pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                    return parquet.read_row_group(group, columns=[field.name]).column(0)
    except pyarrow.ArrowException as error:
        raise Rejected("unreadable", f"parquet: {error}") from error
    raise Rejected("not found", "no column of audio {bytes, path}")


def _refuse_too_long(duration_s: float, max_duration_s: float) -> None:
    if duration_s > max_duration_s:
        raise Rejected("too long", round(duration_s, 2), duration_s)


def _decode(file: BinaryIO, start_s: float, end_s: float | None, max_duration_s: float) -> tuple[np.ndarray, int]:
    """float32 [N, channels] of the stretch and its rate in Hz, through libsndfile."""
    _check_wav(file)
    try:
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
                raise Rejected("wrong sample rate in the header", f"{rate} Hz")
            if sound.channels > MAX_CHANNELS:
                raise Rejected("unreadable", f"{sound.channels} channels, at most {MAX_CHANNELS} are read")
            stated = sound.frames if 0 < sound.frames < 1 << 62 else None  # a flac or ogg from a pipe does not state it
            first = round(start_s * rate)
            last = stated if end_s is None else round(end_s * rate)
            if stated is not None and last is not None:
                if first >= stated or last > stated + SLACK_S * rate:
                    raise Rejected("no such stretch", f"{start_s}-{end_s} s of {stated / rate:.3f} s")
                last = min(last, stated)
            if last is not None:
                _refuse_too_long((last - first) / rate, max_duration_s)
            sound.seek(first)
            channels = _read_blocks(sound, None if last is None else last - first, max_duration_s)
            missing = 0 if stated is None else last - first - len(channels)
            allowed = _MP3_SLACK_S * rate if sound.format == "MP3" else 0
    except (soundfile.SoundFileError, TypeError) as error:
        raise Rejected("unreadable", getattr(error, "error_string", str(error))) from error
    if len(channels) == 0:
        raise Rejected("empty file", "0 samples")
    if missing > allowed:
        ends = f"ends after {(first + len(channels)) / rate:.3f} s, its header says {stated / rate:.3f} s"
        raise Rejected("unreadable", ends, (last - first) / rate)
    return channels, rate


def _read_blocks(sound: soundfile.SoundFile, num_frames: int | None, max_duration_s: float) -> np.ndarray:
    blocks = [np.zeros((0, sound.channels), np.float32)]
    left, count = math.inf if num_frames is None else num_frames, 0
    while left > 0:
        try:
            block = sound.read(int(min(left, _BLOCK)), dtype="float32", always_2d=True)
        except soundfile.SoundFileError as error:  # also at the end of a flac that does not state its length
            known_s = (count if num_frames is None else num_frames) / sound.samplerate
            raise Rejected("unreadable", f"decoding fails behind {count / sound.samplerate:.3f} s", known_s) from error
        if len(block) == 0:
            break
        count += len(block)
        if count > max_duration_s * sound.samplerate:
            blocks.clear()  # the rest, of a length that no header states, is only counted
        else:
            blocks.append(block)
        left -= len(block)
    _refuse_too_long(count / sound.samplerate, max_duration_s)
    return np.concatenate(blocks)


def _check_wav(file: BinaryIO) -> None:
    """Refuse a RIFF header that contradicts itself or the file's length: libsndfile would read it without a word."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        while len(chunk := file.read(8)) == 8:
            name, length = struct.unpack("<4sI", chunk)
            start = file.tell()
            if name == b"fmt " and len(fields := file.read(16)) == 16:
                _, _, rate, bytes_per_s, frame_bytes, bits = struct.unpack("<HHIIHH", fields)
                if bits and rate * frame_bytes != bytes_per_s:
                    raise Rejected(
                        "wrong sample rate in the header", f"{rate} Hz, but {bytes_per_s} / {frame_bytes} frames a second"
                    )
            if name == b"data":
                if start + length > size and length < _UNKNOWN_SIZE:
                    raise Rejected("unreadable", f"holds {size - start} of the {length} bytes in its header")
                break
            file.seek(start + length + length % 2)
    file.seek(0)


def _decode_by_av(
    file: BinaryIO, name: str, sample_rate: int, start_s: float, end_s: float | None, max_duration_s: float
) -> np.ndarray:
    if importlib.util.find_spec("av") is None:
        raise MissingExtra(
            f"{name}: {PurePosixPath(name).suffix} needs PyAV; pip install bcaudio[av], or convert the file to wav"
        )
    with tempfile.NamedTemporaryFile(suffix=PurePosixPath(name).suffix.lower()) as copy:
        while block := file.read(_BLOCK):
            copy.write(block)
        copy.flush()
        if max_duration_s < math.inf:
            stated_s = _stated_s(copy.name)
            _refuse_too_long((stated_s if end_s is None else min(end_s, stated_s)) - start_s, max_duration_s)
        try:
            return read_audio(copy.name, sample_rate)
        except ValueError as error:
            raise Rejected("unreadable", str(error).replace(f"{copy.name}: ", "").replace(copy.name, "")) from error


def _stated_s(path: str) -> float:
    """What a container says of its length, 0 if nothing; raw g722 has 8000 bytes a second."""
    import av

    if path.endswith(".g722"):
        return os.path.getsize(path) / 8_000
    try:
        with av.open(path) as container:
            return (container.duration or 0) / av.time_base
    except av.FFmpegError:  # decoding will say what is wrong
        return 0.0


def _cut(waveform: np.ndarray, rate: int, start_s: float, end_s: float | None) -> np.ndarray:
    duration_s = len(waveform) / rate
    if start_s >= duration_s or (end_s is not None and end_s > duration_s + SLACK_S):
        raise Rejected("no such stretch", f"{start_s}-{end_s} s of {duration_s:.3f} s")
    return waveform[round(start_s * rate) : None if end_s is None else round(end_s * rate)]
