"""The folder that an import or export makes: written beside its place, put there at once; and what is said about it."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bcaudio.pretrained.tensor_files import StoredTensor


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends well, and vanishes when it does not.

    Raises:
        ValueError: there is something at `target` already.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target}: exists and is not empty; choose another --to, or move it away")
    made = [parent for parent in target.parents if not parent.exists()]
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            parent.rmdir()
        raise


@contextmanager
def byte_progress(verb: str, folder: Path, num_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar over `num_bytes` that are to be written to `folder`; gives the function that moves it.

    Raises:
        ValueError: the disk has no room for so many bytes.
    """
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ValueError(
            f"{folder}: needs {num_bytes / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free; make room or choose another --to"
        )
    columns = (TextColumn(verb), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(verb, total=num_bytes)
        yield lambda count: progress.update(task, advance=count)


def warn(text: str) -> None:
    """One line for the user, on stderr."""
    print(f"warning: {text}", file=sys.stderr)


def print_summary(verb: str, target: Path, tensors: Iterable[StoredTensor], started: float) -> None:
    """One line: what was written, how long it took, the peak of the process's memory. `started` is of `time.monotonic`."""
    sizes = [tensor.num_bytes for tensor in tensors]
    print(
        f"{verb} {target}: {len(sizes)} tensors, {sum(sizes) / 1e9:.3f} GB in {time.monotonic() - started:.1f} s, "
        f"peak memory {peak_memory_mib():.0f} MiB"
    )


def peak_memory_mib() -> float:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if platform.system() == "Darwin" else 2**10)
