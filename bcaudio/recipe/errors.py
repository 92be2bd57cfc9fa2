"""Errors as a user meets them: recipe problems, the hint for a misspelt name, a full disk, the exit code of a command."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

USER_ERROR, INTERRUPTED = 2, 130
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk, quota, limit of a file's size


class RecipeError(ValueError):
    """Everything that is wrong with a recipe, one line per problem, each with file and key path.

    Args:
        problems: the lines; a single string is one problem.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems: tuple[str, ...] = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'lr'?`, or `; known: ...` for a short list of names nothing is close to, or nothing.

    Equal last parts count as close (`lr` and `optimizer.lr`), then likeness of letters.
    """
    names = sorted(set(known))
    close = [other for other in names if other.rpartition(".")[2] == name] or difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command of the terminal: what a user can mend becomes one clear line per problem on stderr.

    Returns:
        what the command returns (None is 0), 2 after the user's mistake, 130 after Ctrl-C. With BCAUDIO_TRACEBACK=1 in the
        environment errors come with their traceback.
    """
    try:
        return command() or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `bcaudio show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return USER_ERROR
    except (ValueError, OSError) as error:
        if os.environ.get("BCAUDIO_TRACEBACK", "0") not in ("", "0"):
            raise
        for line in _describe(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return USER_ERROR


def _describe(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on {error.filename or 'the disk'}; free some and run the same command again"
    if isinstance(error, FileNotFoundError) and error.errno and error.filename:
        return f"{error.filename}: no such file or folder"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def naming_full_disk(path: str | Path) -> Iterator[None]:
    """Around writing `path`: an OSError of a disk that takes no more gets the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        remedy = f"{os.strerror(error.errno)}; free some space or choose another out=, then run the same command again"
        raise OSError(error.errno, remedy, str(path)) from error
