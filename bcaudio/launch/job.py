"""What every backend shares: the job, the files and the command it becomes, and how the facts of a cluster are read."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shlex
import shutil
import signal
import subprocess
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bcaudio.recipe.errors import RecipeError, did_you_mean
from bcaudio.recipe.load import load_recipe

# How a stage leaves that has saved a checkpoint because it was told to go (EX_TEMPFAIL of sysexits.h: try again later).
PREEMPTED = 75

NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
PATH = r"[A-Za-z0-9_./@+=,-]+"

Facts = TypeVar("Facts")


@dataclass(frozen=True)
class Job:
    """What is to run, whatever runs it.

    Args:
        name: of the stage; letters, digits, `_`, `.` and `-`.
        arguments: what follows the Python interpreter: `-m bcaudio train RECIPE key=value ...`.
        nodes: machines.
        folder: where the launch files go.
        directory: where the ranks run; relative paths in `arguments` start here.

    Raises:
        ValueError: fewer than one node, a name or an argument that no launch file can hold.
    """

    name: str
    arguments: tuple[str, ...]
    nodes: int
    folder: Path
    directory: Path

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise ValueError(f"--nodes is {self.nodes}; a job needs at least 1")
        matches("name", self.name, NAME, "letters, digits, _, . and -")
        for text in (*self.arguments, str(self.folder), str(self.directory)):
            if not text.isprintable():
                raise ValueError(
                    f"{text!r}: line breaks and control characters cannot be passed to a job; write them in the recipe"
                )


@dataclass(frozen=True)
class Launch:
    """What `bcaudio launch` writes and what it then runs.

    Args:
        files: path -> text.
        command: argv; no shell reads it.
        remedy: what to do where the program or a module is not found.
        modules: Python modules that the command imports.
    """

    files: Mapping[Path, str]
    command: tuple[str, ...]
    remedy: str
    modules: tuple[str, ...] = ()

    def describe(self) -> Iterator[str]:
        """Lines: every file under its name, then the command, quoted for a shell."""
        for path, text in self.files.items():
            yield f"# {path}"
            yield from text.splitlines()
            yield ""
        yield shlex.join(self.command)

    def submit(self) -> int:
        """Write the files and run the command; SIGTERM and SIGUSR1 are passed on to it.

        Returns:
            its exit code, 128 + N when signal N ended it.

        Raises:
            FileNotFoundError: the program, or a module it imports, is not installed.
        """
        if shutil.which(self.command[0]) is None:
            raise FileNotFoundError(f"{self.command[0]}: no such program here; {self.remedy}")
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                raise FileNotFoundError(f"{module}: no such Python module here; {self.remedy}")
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        process = subprocess.Popen(self.command)
        numbers = (signal.SIGTERM, signal.SIGUSR1)
        before = [signal.signal(number, lambda number, _: process.send_signal(number)) for number in numbers]
        try:
            code = process.wait()
            return code if code >= 0 else 128 - code
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def torchrun(python: str, *options: str, arguments: Sequence[str]) -> tuple[str, ...]:
    """argv of one node's agent: torchrun's options, then what every rank runs.

    Args:
        python: interpreter on that node; empty: the one that runs now.
    """
    return (python or sys.executable, "-m", "bcaudio.launch.agent", *options, *arguments)


def load_facts(kind: type[Facts], path: Path, overrides: Sequence[str]) -> Facts:
    """What a site says about its cluster: a YAML file as any recipe (extends, interpolation), with overrides.

    Args:
        kind: dataclass with a field per key.
        path: the file.
        overrides: `key=value`.

    Raises:
        RecipeError: one line per unknown, missing or mistyped key.
        ValueError: a value the backend cannot use; the file comes first.
    """
    values = load_recipe(path, overrides)
    types = typing.get_type_hints(kind)
    problems = [f"{path}: {key}: unknown key{did_you_mean(str(key), types)}" for key in values if key not in types]
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in values:
            problems += [f"{path}: {line}" for line in _mistyped(field.name, values[field.name], types[field.name])]
        elif field.default is field.default_factory is dataclasses.MISSING:
            problems.append(f"{path}: {field.name}: required, but missing")
    if problems:
        raise RecipeError(problems)
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _mistyped(key: str, value: Any, wanted: Any) -> Iterator[str]:
    """A line when a value is not of its field's type: bool, int, str, tuple[str, ...] or Mapping[str, str]."""
    if wanted == tuple[str, ...]:
        good = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        wanted = "a list of texts"
    elif wanted == Mapping[str, str]:
        good = isinstance(value, dict) and all(isinstance(entry, str) for pair in value.items() for entry in pair)
        wanted = "a mapping from text to text"
    else:
        good = type(value) is wanted
        wanted = f"{wanted.__name__}{' (in quotes)' if wanted is str else ''}"
    if not good:
        yield f"{key}: expected {wanted}, got {value!r}"


def matches(key: str, value: str, pattern: str, allowed: str) -> None:
    """Refuse a value that is not wholly of a pattern. Raises ValueError with key, value and what is allowed."""
    if not re.fullmatch(pattern, value):
        raise ValueError(f"{key}: {value!r} is not allowed here; use {allowed}")


def at_least(key: str, value: int, bound: int) -> None:
    """Refuse a number below its bound. Raises ValueError with key, value and bound."""
    if value < bound:
        raise ValueError(f"{key}: {value} is too small; it must be at least {bound}")
