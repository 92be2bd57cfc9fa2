"""A pipeline's matrix: one block of YAML that stands for many stages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from bcaudio.recipe.errors import RecipeError

_PLACE = re.compile(r"\{([A-Za-z0-9_]+)\}")


def matrix_problems(matrix: Any) -> Iterator[str]:
    """What is wrong with the `matrix` of a pipeline."""
    if not isinstance(matrix, Mapping):
        yield f"matrix: expected a mapping from name to a list of values, got {matrix!r}"
        return
    for name, values in matrix.items():
        if not isinstance(values, list) or not values or not all(isinstance(value, str | int | float) for value in values):
            yield f"matrix.{name}: expected a list of texts or numbers with at least one entry, got {values!r}"
        elif len(set(map(str, values))) < len(values):
            yield f"matrix.{name}: a value stands there twice: {values!r}"


def expand(node: Any, matrix: Mapping[str, list[Any]], bound: Mapping[str, Any] | None = None) -> Any:
    """`node` with every `{name}` of the matrix filled in.

    A key with a `{name}` stands for one key per value of that name; several names in a key for all their combinations. Below such
    a key the name has that one value, in keys and in texts. A text that is `{name}` alone becomes the value itself, a number too.
    What the matrix does not name stays as it is.

    Args:
        node: mappings, lists and scalars.
        matrix: name -> values.
        bound: name -> the value it has here.

    Raises:
        RecipeError: two keys of one mapping become the same.
    """
    bound = bound or {}
    if isinstance(node, list):
        return [expand(value, matrix, bound) for value in node]
    if isinstance(node, str):
        return _filled(node, bound)
    if not isinstance(node, Mapping):
        return node
    expanded: dict[Any, Any] = {}
    for key, value in node.items():
        free = [name for name in dict.fromkeys(_PLACE.findall(str(key))) if name in matrix and name not in bound]
        for values in product(*(matrix[name] for name in free)):
            inner = {**bound, **dict(zip(free, values, strict=True))}
            filled = str(_filled(key, inner)) if isinstance(key, str) else key
            if filled in expanded:
                raise RecipeError(f"stages: {key} makes {filled!r}, which is there already; give it another name")
            expanded[filled] = expand(value, matrix, inner)
    return expanded


def _filled(text: str, bound: Mapping[str, Any]) -> Any:
    if (alone := _PLACE.fullmatch(text)) and alone[1] in bound:
        return bound[alone[1]]
    return _PLACE.sub(lambda match: str(bound.get(match[1], match[0])), text)
