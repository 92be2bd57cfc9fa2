"""Files by path or by URL (`s3://...`): the few operations that shards need. fsspec is loaded where a URL is met."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

Place = str | Path  # a URL is a string, anything else a Path


def is_url(place: Place) -> bool:
    """Whether fsspec is to open it."""
    return "://" in str(place)


def as_place(place: Place) -> Place:
    """A path becomes a Path; a URL stays a string, since Path would take one of its slashes."""
    return str(place) if is_url(place) else Path(place)


def join(folder: Place, name: str) -> Place:
    """`name` below a folder."""
    return f"{str(folder).rstrip('/')}/{name}" if is_url(folder) else Path(folder) / name


def file_name(place: Place) -> str:
    """The last part of a path or URL."""
    return str(place).rpartition("/")[2] if is_url(place) else Path(place).name


def file_system(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it. fsspec keeps one per process, so nothing of it crosses a fork.

    Raises:
        ValueError: the package behind this kind of URL is not installed, or nobody knows the kind.
    """
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{url}: cannot be opened ({error}); pip install bcaudio[remote], or correct the URL") from error


def find(pattern: Place) -> list[Place]:
    """Files that a path, URL or glob names, sorted; a file whose own name looks like a glob is that file."""
    if is_url(pattern):
        system, path = file_system(str(pattern))
        system.invalidate_cache()  # a listing of before knows nothing of shards that were made since
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))
    matches = [str(pattern)] if os.path.exists(pattern) else glob.glob(str(pattern), recursive=True)
    return sorted(Path(match) for match in matches if os.path.isfile(match))


def file_size(place: Place) -> int:
    """Bytes of a file. Raises FileNotFoundError naming it."""
    if not is_url(place):
        return os.stat(place).st_size
    system, path = file_system(str(place))
    try:
        return int(system.info(path)["size"])
    except FileNotFoundError as error:
        raise _vanished(place) from error


def open_binary(place: Place) -> BinaryIO:
    """A seekable stream of bytes. Raises FileNotFoundError naming the file."""
    if not is_url(place):
        return open(place, "rb")
    system, path = file_system(str(place))
    try:
        return system.open(path, "rb")
    except FileNotFoundError as error:
        raise _vanished(place) from error


def read_files(urls: list[str]) -> list[bytes]:
    """Whole objects of one file system, fetched side by side. Raises FileNotFoundError naming the first that is missing."""
    if not urls:
        return []
    paths = [file_system(url)[1] for url in urls]
    found = file_system(urls[0])[0].cat(paths, on_error="return")
    contents = []
    for url, path in zip(urls, paths, strict=True):
        content = found[path]
        if isinstance(content, FileNotFoundError):
            raise _vanished(url) from content
        if isinstance(content, Exception):
            raise content
        contents.append(content)
    return contents


def read_range(place: Place, offset: int, size: int) -> bytes:
    """`size` bytes from `offset`, fewer where the file ends before. Raises FileNotFoundError naming the file."""
    if not is_url(place):
        with open(place, "rb") as stream:
            stream.seek(offset)
            return stream.read(size)
    system, path = file_system(str(place))
    try:
        return system.cat_file(path, start=offset, end=offset + size)
    except FileNotFoundError as error:
        raise _vanished(place) from error
    except OSError:  # a range that begins behind the end is an error of its own kind in every store
        system.invalidate_cache()
        if file_size(place) <= offset:
            return b""
        raise


def upload(local: Path, url: str) -> None:
    """Copy a local file to a URL; stores such as S3 show an object only when it is complete."""
    system, path = file_system(url)
    system.makedirs(system._parent(path), exist_ok=True)
    system.put_file(str(local), path)
    system.invalidate_cache()


def remove(place: Place) -> None:
    """Delete a file if it is there."""
    if not is_url(place):
        Path(place).unlink(missing_ok=True)
        return
    system, path = file_system(str(place))
    if system.exists(path):
        system.rm_file(path)
        system.invalidate_cache()


def _vanished(place: Place) -> FileNotFoundError:
    return FileNotFoundError(f"{place}: there is no such object, or no longer; put it back or leave it out of the list of shards")
