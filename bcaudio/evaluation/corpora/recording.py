"""A sound on disk that is read when it is wanted: a file, a stretch of one, or a member of a tar."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np
import soundfile

from bcaudio.audio.io import read_audio, resample

SLACK_S = 0.1  # a segment may end this much behind its recording: published times are rounded
_IN_TAR = re.compile(r"(.+\.(?:tar|tar\.gz|tgz))#(.+)", re.DOTALL)


@dataclass(frozen=True)
class Recording:
    """A sound that is read when it is called for.

    Args:
        path: an audio file, or a tar (also `.tar.gz`, `.tgz`) that holds it.
        member: its name in the tar; None for a file.
        start_s, end_s: the stretch that is meant, in seconds, and nothing else is decoded; `end_s` None: all of the file.
    """

    path: Path
    member: str | None = None
    start_s: float = 0.0
    end_s: float | None = None

    @classmethod
    def at(cls, folder: Path, name: str) -> Recording:
        """Of a path relative to `folder`, or `x.tar#member`."""
        inside = _IN_TAR.fullmatch(name)
        return cls(folder / inside[1], inside[2]) if inside else cls(folder / name)

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.path}#{self.member}"

    def __call__(self, sample_rate: int) -> np.ndarray:
        """float32 [N] at `sample_rate` Hz.

        Raises:
            FileNotFoundError: no such file or member.
            ValueError: it cannot be decoded, or the stretch does not lie in it.
        """
        if self.member is not None:
            return _decode_bytes(_archive(*_stamp(self.path)).read(self.member), self, sample_rate)
        return read_audio(self.path, sample_rate) if self.end_s is None else self._stretch(sample_rate)

    def _stretch(self, sample_rate: int) -> np.ndarray:
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such audio file; check the path")
        try:
            with soundfile.SoundFile(self.path) as sound:
                rate = sound.samplerate
                first, last = round(self.start_s * rate), round((self.end_s or 0.0) * rate)
                if not 0 <= first < last <= sound.frames + SLACK_S * rate or first >= sound.frames:
                    length = f"{sound.frames / rate:.3f} s"
                    raise ValueError(f"{self.path}: has no stretch {self.start_s}-{self.end_s} s, it is {length} long")
                sound.seek(first)
                samples = sound.read(min(last, sound.frames) - first, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, TypeError) as error:
            raise ValueError(f"{self.path}: cannot be decoded ({error}); convert it to wav, flac or Ogg opus") from error
        if not len(samples) or not np.isfinite(samples).all():
            raise ValueError(f"{self.path}: {self.start_s}-{self.end_s} s holds no samples, or NaN; copy the file again")
        return resample(samples.mean(axis=1), rate, sample_rate)


def _decode_bytes(data: bytes, where: Recording, sample_rate: int) -> np.ndarray:
    with tempfile.NamedTemporaryFile(suffix=PurePosixPath(where.member or "").suffix) as copy:
        copy.write(data)
        copy.flush()
        try:
            return read_audio(copy.name, sample_rate)
        except ValueError as error:
            raise ValueError(str(error).replace(copy.name, str(where))) from error


def _stamp(path: Path) -> tuple[str, int, int]:
    """Path, size and time of change: a tar written anew is read anew."""
    try:
        state = path.stat()
    except OSError as error:
        raise FileNotFoundError(f"{path}: no such tar file; check the path") from error
    return str(path), state.st_size, state.st_mtime_ns


class _Archive:
    """Members of a tar at random. What is packed is unpacked once, into a file without a name that ends with the process.

    Names of members are looked up and never become paths; links are no members.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.file = self._plain(path)
            with tarfile.open(fileobj=self.file, mode="r:") as tar:
                self.places = {
                    member.name.removeprefix("./"): (member.offset_data, member.size) for member in tar if member.isreg()
                }
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: cannot be read as a tar ({error}); copy it again") from error

    @staticmethod
    def _plain(path: str) -> BinaryIO:
        if path.endswith(".tar"):
            return open(path, "rb", buffering=0)
        plain = tempfile.TemporaryFile(prefix="bcaudio-")  # noqa: SIM115 - lives as long as the archive
        with gzip.open(path, "rb") as packed:
            shutil.copyfileobj(packed, plain, 1 << 20)
        plain.flush()
        plain.seek(0)
        return plain

    def read(self, name: str) -> bytes:
        """The content of a member; FileNotFoundError where there is none of that name."""
        if name not in self.places:
            raise FileNotFoundError(f"{self.path}: holds no {name!r}; copy the tar again")
        offset, size = self.places[name]
        return os.pread(self.file.fileno(), size, offset)  # at its own position: forked children share the file


@lru_cache(maxsize=4)
def _archive(path: str, size: int, mtime_ns: int) -> _Archive:
    return _Archive(path)
