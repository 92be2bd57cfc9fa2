"""Read a recipe: YAML with `extends`, dotted overrides and interpolation, to a plain dict."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bcaudio.recipe.errors import RecipeError, did_you_mean

_REMOVED = object()  # a list's entry until all overrides are applied, since they count it
# The program that starts a stage says where it writes, so `out` need not stand in the file.
ALWAYS_KNOWN = frozenset({"out"})


def load_recipe(path: str | Path, overrides: Sequence[str] = (), missing_ok: bool = False) -> dict[str, Any]:
    """The resolved recipe as plain dicts, lists and scalars.

    Later wins: the files named by `extends` (relative to the file that says so, in that order), the file itself, the overrides.
    Mappings are merged key by key, everything else is replaced. Null removes a key that an earlier layer has set; in an override
    also an entry of a list, which the other overrides go on counting.

    Args:
        path: a YAML file.
        overrides: `a.b=value` with a YAML value; list entries by index (`a.0.b=value`); `+a.b=value` may add a key.
        missing_ok: leave `???` (and what is interpolated from it) standing instead of refusing it.

    Raises:
        RecipeError: with one line for every unreadable file, unknown override, value still missing or broken interpolation.
    """
    path = Path(path)
    recipe = _read(path, ())
    problems = []
    for override in overrides:
        try:
            _apply(recipe, override)
        except RecipeError as error:
            problems.extend(f"{path}: {line}" for line in error.problems)
    if problems:
        raise RecipeError(problems)
    return _resolve(_without_removed(recipe), path, missing_ok)


def dump_recipe(recipe: Mapping[str, Any]) -> str:
    """YAML that load_recipe reads back to the same values; the order of keys is kept."""
    return OmegaConf.to_yaml(OmegaConf.create(_plain(recipe)))


def format_override(key: str, value: Any) -> str:
    """`key=value` such that load_recipe reads exactly this value: text that YAML would take for something else is quoted."""
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str):
        return f"{key}={value}" if parse_value(value) == value else f"{key}={json.dumps(value, ensure_ascii=False)}"
    return f"{key}={json.dumps(_plain(value), ensure_ascii=False)}"


def key_paths(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key path, value) of every leaf; an empty mapping or list is a leaf."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    if not items or not node:
        yield prefix, node
        return
    for key, value in items:
        yield from key_paths(value, f"{prefix}.{key}" if prefix else str(key))


def _read(path: Path, chain: tuple[Path, ...]) -> dict[str, Any]:
    """A file merged over everything it extends, unresolved."""
    if path.resolve() in chain:
        names = " -> ".join(str(p.name) for p in (*chain[chain.index(path.resolve()) :], path))
        raise RecipeError(f"{path}: extends: the files extend each other in a circle: {names}")
    try:
        node = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8") or "{}"), resolve=False)
    except FileNotFoundError:
        said_by = f"{chain[-1]}: extends: " if chain else ""
        raise RecipeError(f"{said_by}{path}: no such file; give the path of a recipe") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        hint = "; inside {...} and [...] put '???' and '${...}' in quotes" if "while parsing a flow" in str(error) else ""
        raise RecipeError(f"{path}: no valid YAML: {_one_line(error)}{hint}") from None
    if not isinstance(node, dict):
        raise RecipeError(f"{path}: holds a {type(node).__name__}; a recipe is a mapping of keys")
    bases = node.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise RecipeError(f"{path}: extends: expected a file name or a list of them, got {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        _merge(merged, _read(path.parent / base, (*chain, path.resolve())))
    _merge(merged, node)
    return merged


def _merge(base: dict[str, Any], child: Mapping[str, Any]) -> None:
    """Merge `child` into `base` in place; null removes a key of `base`."""
    for key, value in child.items():
        if value is None and key in base:
            del base[key]
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def parse_value(text: str) -> Any:
    """A YAML value as OmegaConf reads it (`1e-4` is a number)."""
    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]
    except (yaml.YAMLError, OmegaConfBaseException):
        return None


def _apply(recipe: dict[str, Any], override: str) -> None:
    """Set one `[+]a.b=value` in place. Raises RecipeError without the name of the file."""
    key_path, equals, text = override.partition("=")
    may_add, key_path = key_path.startswith("+"), key_path.removeprefix("+")
    keys = key_path.split(".")
    if not equals or not all(keys):
        raise RecipeError(f"{override}: not an override; write key.path=value")
    value = parse_value(text)
    if value is None and text.strip() not in ("", "null", "~", "Null", "NULL"):
        raise RecipeError(f"{key_path}: no valid YAML value: {text!r}; quote it")
    node: Any = recipe
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where = ".".join(keys[: depth + 1])
        if isinstance(node, list):
            appends = last and may_add and key == str(len(node))
            if not appends and not (key.isdecimal() and int(key) < len(node)):
                raise RecipeError(f"{where}: no such entry; {'.'.join(keys[:depth])} is a list of {len(node)}, counted from 0")
            if appends:
                node.append(None)
            child: Any = int(key)
        elif isinstance(node, dict):
            child = key if key in node else next((k for k in node if str(k) == key), key)
            if child not in node:
                if not may_add and not (depth == 0 and key in ALWAYS_KNOWN):
                    raise RecipeError(f"{where}: unknown key{_suggest(recipe, node, keys, depth)}")
                node[child] = None if last else {}
        else:
            raise RecipeError(f"{where}: {'.'.join(keys[:depth])} is {node!r}, which has no keys")
        if not last:
            node = node[child]
        elif isinstance(value, dict) and isinstance(node[child], dict):
            _merge(node[child], value)
        elif value is None and isinstance(node, dict):
            del node[child]
        else:
            node[child] = _REMOVED if value is None else value


def _without_removed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_removed(value) for key, value in node.items()}
    return [_without_removed(value) for value in node if value is not _REMOVED] if isinstance(node, list) else node


def _suggest(recipe: dict[str, Any], node: Mapping[Any, Any], keys: Sequence[str], depth: int) -> str:
    """Near names beside the unknown key first, then the same name anywhere in the recipe."""
    beside = did_you_mean(keys[depth], map(str, node))
    if "did you mean" in beside:
        return beside
    anywhere = [path for path, _ in key_paths(recipe) if path.endswith("." + ".".join(keys[depth:]))]
    return f"; did you mean {anywhere[0]!r}?" if anywhere else beside or f"; +{'.'.join(keys)}=... adds it"


def _resolve(recipe: dict[str, Any], path: Path, missing_ok: bool) -> dict[str, Any]:
    """Follow every `${...}`; collect everything that cannot be followed and every `???`."""
    config = OmegaConf.create(recipe)
    problems: list[str] = []
    resolved = _resolve_node(config, "", problems, missing_ok)
    if problems:
        raise RecipeError(f"{path}: {problem}" for problem in problems)
    return resolved


def _resolve_node(node: Any, prefix: str, problems: list[str], missing_ok: bool) -> Any:
    if not isinstance(node, DictConfig | ListConfig):
        return node
    keys = list(node.keys()) if isinstance(node, DictConfig) else range(len(node))
    values = {}
    for key in keys:
        where = f"{prefix}.{key}" if prefix else str(key)
        if OmegaConf.is_missing(node, key):
            values[key] = _raw(node, key)
            if not missing_ok:
                problems.append(f"{where}: a value is required; set it in the recipe or give {where}=...")
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            values[key] = _raw(node, key)
            if not missing_ok or "InterpolationToMissing" not in type(error).__name__:
                problems.append(f"{where}: {values[key]} cannot be resolved: {_one_line(error)}")
            continue
        values[key] = _resolve_node(value, where, problems, missing_ok)
    return values if isinstance(node, DictConfig) else list(values.values())


def _raw(node: DictConfig | ListConfig, key: Any) -> Any:
    return OmegaConf.to_container(node, resolve=False)[key]


def _one_line(error: Exception) -> str:
    """The text of a YAML or OmegaConf error, on one line, without OmegaConf's trailing `full_key:` block."""
    lines = str(error).split("\n    full_key:")[0].splitlines()
    return " ".join(line.strip() for line in lines if line.strip()).replace('in "<unicode string>", ', "")


def _plain(node: Any) -> Any:
    """Mappings to dict, sequences to list, paths to text: what YAML and JSON can hold."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node]
    return str(node) if isinstance(node, Path) else node
