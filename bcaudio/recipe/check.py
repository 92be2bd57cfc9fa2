"""Check a recipe before anything runs: every key, every `_target_`, every simple type, all problems at once."""

from __future__ import annotations

import fnmatch
import inspect
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, Union

from bcaudio.recipe.errors import RecipeError, did_you_mean
from bcaudio.recipe.target import resolve_target

Given = Mapping[str, Collection[str]]

TRAIN_KEYS = frozenset(
    {"extends", "name", "paper", "seed", "threads", "takes", "out"}
    | {"model", "init_from", "trainable", "lora", "module", "losses", "optimizer"}
    | {"data", "max_steps", "trainer", "checkpoint_every", "checkpoints", "callbacks", "gate", "fingerprint"}
    | {"max_steps", "checkpoint_every", "codebook_sizes"}
)
# What training hands to the constructors itself, by key path; a name the constructor lacks does no harm here.
TRAIN_GIVEN: Given = {"module": {"model", "optimizer", "losses", "seed"}, "data": {"seed", "takes"}}


def check_recipe(
    recipe: Mapping[str, Any], path: str | Path, schema: Collection[str] | None = TRAIN_KEYS, given: Given | None = TRAIN_GIVEN
) -> None:
    """Refuse a recipe that cannot work.

    Args:
        recipe: as load_recipe returns it; what is still `???` or `${...}` counts as a value of any type.
        path: the file, for the messages.
        schema: the top-level keys that the command reads; None allows any.
        given: key path (a part may be a wildcard: `callbacks.*`) -> parameters that the program supplies; they must not stand in
            the recipe. None: not known, so that no parameter is reported as missing.

    Raises:
        RecipeError: one line per problem of the whole file, each with key path and nearest right name.
    """
    problems = []
    if schema is not None:
        problems += [f"{key}: unknown key{did_you_mean(str(key), schema)}" for key in recipe if key not in schema]
    problems += _walk(recipe, "", given)
    if problems:
        raise RecipeError(f"{path}: {problem}" for problem in problems)


def _walk(node: Any, where: str, given: Given | None) -> Iterator[str]:
    """Every problem at and below a node."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield from _check_call(node, where, given)
        for key, value in node.items():
            yield from _walk(value, _join(where, key), given)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _walk(value, _join(where, i), given)


def _check_call(node: Mapping[str, Any], where: str, given: Given | None) -> Iterator[str]:
    """Bind the keys of one `_target_` node to the signature of what it names."""
    try:
        found = resolve_target(node["_target_"])
    except RecipeError as error:
        yield f"{_join(where, '_target_')}: {error}"
        return
    parameters = _parameters(found)
    if parameters is None:
        return
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    supplied = _supplied(where, given)
    for key, value in node.items():
        if key == "_target_":
            continue
        if key in supplied:
            yield f"{_join(where, key)}: supplied by the program; remove it"
        elif key in named:
            yield from _check_value(value, named[key].annotation, _join(where, key))
        elif not takes_any:
            yield f"{_join(where, key)}: unknown key{did_you_mean(str(key), named.keys() - supplied)}"
    if given is not None:
        for name, parameter in named.items():
            if parameter.default is parameter.empty and name not in node and name not in supplied:
                yield f"{_join(where, name)}: required by {node['_target_']}, but missing"


def _parameters(found: Any) -> list[inspect.Parameter] | None:
    """Parameters with evaluated annotations where Python can evaluate them; None for what has no signature."""
    for evaluate in (True, False):
        try:
            return list(inspect.signature(found, eval_str=evaluate).parameters.values())
        except Exception:  # an annotation is arbitrary code: imports for type checkers only, forward references
            continue
    return None


def _supplied(where: str, given: Given | None) -> set[str]:
    parts = where.split(".")
    names: set[str] = set()
    for pattern, parameters in (given or {}).items():
        wanted = pattern.split(".")
        if len(wanted) == len(parts) and all(map(fnmatch.fnmatchcase, parts, wanted)):
            names.update(parameters)
    return names


def _check_value(value: Any, annotation: Any, where: str) -> Iterator[str]:
    """A line when a value cannot be of the annotated type; containers are checked entry by entry."""
    entries, expected = _entries(value, annotation)
    if not _fits(value, annotation):
        yield f"{where}: expected {_describe(annotation)}, got {value!r} ({_kind(value)})"
    else:
        for key, entry in entries:
            yield from _check_value(entry, expected, _join(where, key))


def _entries(value: Any, annotation: Any) -> tuple[Iterable[tuple[Any, Any]], Any]:
    """The entries of a list or mapping and the type that all of them shall have; none where the annotation does not say."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(value, list) and _is_list_type(origin) and arguments:
        if origin is tuple and arguments[-1] is not Ellipsis:
            return (), Any
        return enumerate(value), arguments[0]
    if isinstance(value, Mapping) and "_target_" not in value and _is_dict_type(origin) and len(arguments) == 2:
        return value.items(), arguments[1]
    return (), Any


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a YAML value can be meant by an annotation. Types that YAML cannot spell are taken on trust."""
    if isinstance(value, str) and (value == "???" or "${" in value):  # still to be given
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits_deep(value, choice) for choice in arguments)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is str or (inspect.isclass(annotation) and issubclass(annotation, Path)):
        return isinstance(value, str)
    if origin is tuple and isinstance(value, list) and arguments and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits_deep, value, arguments))
    if _is_list_type(origin or annotation):
        return isinstance(value, list)
    if _is_dict_type(origin or annotation):
        return isinstance(value, Mapping)
    return True


def _fits_deep(value: Any, annotation: Any) -> bool:
    """As _fits, with the entries: a union needs them to choose."""
    entries, expected = _entries(value, annotation)
    return _fits(value, annotation) and all(_fits_deep(entry, expected) for _, entry in entries)


def _is_list_type(annotation: Any) -> bool:
    if annotation in (list, tuple, set, frozenset):
        return True
    return annotation in (Sequence, Iterable, Collection, Set, typing.Sequence, typing.Iterable, typing.Collection)


def _is_dict_type(annotation: Any) -> bool:
    return annotation in (dict, Mapping, typing.Mapping, typing.Dict)  # noqa: UP006 (what other people's code is annotated with)


def _describe(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(annotation)))
    if inspect.isclass(annotation) and typing.get_origin(annotation) is None:
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
