"""The one error of this room, and the hint that goes with a misspelt name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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
