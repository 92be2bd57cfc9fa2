"""Model nodes of recipes as data: filled with defaults, compared, merged, built without memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from bcaudio.recipe.build import build
from bcaudio.recipe.target import resolve_target

Node = dict[str, Any]


def complete(node: Any) -> Any:
    """A node with every default of its constructors written out, tuples as lists."""
    if isinstance(node, Mapping):
        filled = {key: complete(value) for key, value in node.items()}
        if "_target_" not in node:
            return filled
        parameters = inspect.signature(resolve_target(node["_target_"])).parameters.values()
        defaults = {p.name: complete(p.default) for p in parameters if p.default is not p.empty}
        return {**defaults, **filled}
    return [complete(value) for value in node] if isinstance(node, list | tuple) else node


def difference(node: Mapping[str, Any], base: Mapping[str, Any], where: str) -> Node:
    """What `merge` must add to `base` to get `node`; both complete, entries that only `base` has do not count.

    Raises:
        ValueError: other classes than those of `base`, which the released layout has no way to say.
    """
    found: Node = {}
    for key, value in node.items():
        path, other = f"{where}.{key}", base.get(key, _ABSENT)
        if key == "_target_":
            if value != other:
                raise ValueError(f"{path}: the released layout holds a {other}, not a {value}; use --format bcaudio")
        elif isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := difference(value, other, path):
                found[key] = inner
        elif isinstance(value, Mapping) and "_target_" in value:
            raise ValueError(f"{path}: the released layout has no {value['_target_']} here; use --format bcaudio")
        elif value != other:
            found[key] = value
    return found


def merge(base: Mapping[str, Any], extra: Mapping[str, Any], where: str) -> Node:
    """`base` with the entries of `extra` put in, mapping by mapping.

    Raises:
        ValueError: `extra` names a class; from a file of somebody else only sizes and numbers are taken.
    """
    if _names_class(extra):
        raise ValueError(f"{where}: holds a _target_, but a configuration may not name classes; remove it")
    merged = dict(base)
    for key, value in extra.items():
        inner = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value, f"{where}.{key}") if inner else value
    return merged


def _names_class(node: Any) -> bool:
    if isinstance(node, Mapping):
        return "_target_" in node or any(map(_names_class, node.values()))
    return isinstance(node, list) and any(map(_names_class, node))


def meta_model(node: Mapping[str, Any], where: str) -> nn.Module:
    """The model a node describes, on the meta device: names and shapes, no memory.

    Raises:
        ValueError: a constructor refuses its arguments; the text begins with `where`.
    """
    with torch.device("meta"):
        return build(node, where)


_ABSENT = object()
