"""From a dotted path to a class or function, of allowed packages only: a recipe from a stranger must not run arbitrary code."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from typing import Any

from bcaudio.recipe.errors import RecipeError, did_you_mean

ALLOWED_PREFIXES = (
    "bcaudio.",
    "data_prep.",
    "torch.nn.",
    "torch.optim.",
    "lightning.pytorch.callbacks.",
    "lightning.pytorch.loggers.",
    "lightning.pytorch.strategies.",
)
# These rooms start programs on request, which no recipe may ask for.
DENIED_PREFIXES = ("bcaudio.recipe.", "bcaudio.cli.", "bcaudio.launch.")


def resolve_target(target: Any) -> Callable[..., Any]:
    """The class or function that a `_target_` names.

    Refused are: paths outside ALLOWED_PREFIXES, parts that begin with an underscore, anything that is neither class nor function,
    and objects that an allowed module has merely imported from elsewhere (`bcaudio.x.os.system`).

    Raises:
        RecipeError: says why, with the nearest name that exists; without file and key path, which the caller knows.
    """
    if not isinstance(target, str):
        raise RecipeError(f"_target_ must be a dotted path, got {target!r}")
    parts = target.split(".")
    if not all(part.isidentifier() and not part.startswith("_") for part in parts):
        raise RecipeError(f"{target}: not a dotted path of public names")
    if not _allowed(target):
        raise RecipeError(f"{target}: not allowed; a recipe may name {', '.join(prefix + '*' for prefix in ALLOWED_PREFIXES)}")
    module, names = _import_longest(target, parts)
    found: Any = module
    for depth, name in enumerate(names):
        if not hasattr(found, name):
            where = ".".join(parts[: len(parts) - len(names) + depth])
            raise RecipeError(f"{target}: {where} has no {name!r}{did_you_mean(name, _public_names(found))}")
        found = getattr(found, name)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        raise RecipeError(f"{target}: is a {type(found).__name__}; a recipe may name classes and functions")
    if not _allowed(f"{found.__module__}."):
        raise RecipeError(f"{target}: comes from {found.__module__}, which a recipe may not name")
    return found


def _allowed(path: str) -> bool:
    return path.startswith(ALLOWED_PREFIXES) and not path.startswith(DENIED_PREFIXES)


def _import_longest(target: str, parts: list[str]) -> tuple[Any, list[str]]:
    """The module with the longest path that `target` begins with, and the names that remain."""
    module = None
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        try:
            if module is not None and (not hasattr(module, "__path__") or importlib.util.find_spec(name) is None):
                break
            module = importlib.import_module(name)
        except ImportError as error:
            raise RecipeError(f"{target}: importing {name} fails: {error}") from error
    return module, parts[len(module.__name__.split(".")) :]


def _public_names(node: Any) -> Iterable[str]:
    modules = (info.name for info in pkgutil.iter_modules(node.__path__)) if hasattr(node, "__path__") else ()
    return [name for name in (*dir(node), *modules) if not name.startswith("_")]
