"""Turn `_target_` nodes of a recipe into objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.target import resolve_target


def build(node: Any, where: str = "", /, **given: Any) -> Any:
    """Build a node and everything inside it; scalars are returned as they are, mappings and lists entry by entry.

    Args:
        node: part of a recipe as load_recipe returns it.
        where: its key path, for the messages (`build(recipe["model"], "model")`).
        given: more arguments for the outermost object, which the recipe must not set.

    Raises:
        RecipeError: the path is refused, an argument is set twice, or a constructor raised ValueError or TypeError; its text
            follows the key path.
        FileNotFoundError: a constructor missed a file; its text follows the key path. Other errors pass as they are, with a note.
    """
    if given and not (isinstance(node, Mapping) and "_target_" in node):
        raise RecipeError(f"{where or 'node'}: expected a mapping with _target_, got {node!r}")
    if isinstance(node, Mapping):
        values = {key: build(value, _join(where, key)) for key, value in node.items() if key != "_target_"}
        return _call(node["_target_"], values, given, where) if "_target_" in node else values
    if isinstance(node, list):
        return [build(value, _join(where, i)) for i, value in enumerate(node)]
    return node


def _call(target: Any, values: dict[str, Any], given: Mapping[str, Any], where: str) -> Any:
    prefix = f"{where}: {target}" if where else str(target)
    twice = sorted(values.keys() & given.keys())
    if twice:
        raise RecipeError(f"{_join(where, twice[0])}: supplied by the program; remove it from the recipe")
    try:
        found = resolve_target(target)
    except RecipeError as error:
        raise RecipeError(f"{_join(where, '_target_')}: {error}") from None
    try:
        return found(**values, **given)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{prefix}: {error}") from error
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{prefix}: {error}") from error
    except Exception as error:
        error.add_note(f"while building {prefix}")
        raise


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
