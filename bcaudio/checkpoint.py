"""What stages hand to each other: weights (safetensors), the recipe that builds them, and a fingerprint of what they mean."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe

WEIGHTS, FINGERPRINT, RECIPE = "model.safetensors", "fingerprint.json", "recipe.yaml"


@dataclass(frozen=True)
class KeyReport:
    """Which tensors init_from has used; all names are those of the model, sorted.

    Args:
        loaded: taken from the folder.
        missing: in the model (below the target prefix), not in the folder; they keep their values.
        unexpected: in the folder (below the source prefix), not in the model.
        reshaped: in both, with different shapes, `name: [2, 3] in the file, [2, 4] in the model`. Only a refused report has any.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{len(self.loaded)} tensors loaded, {len(self.missing)} missing, {len(self.unexpected)} unexpected"


def save_model(folder: str | Path, model: nn.Module, fingerprint: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `fingerprint.json` (with `weights_sha256`), each at once or not at all; dtypes stay.

    Tied parameters are written under each of their names, so that a strict load finds all of them.

    Raises:
        OSError: ENOSPC with the path, when the disk is full.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in storages:
            tensor = tensor.clone()
        storages.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor
    temporary = folder / f".{WEIGHTS}.tmp"
    try:
        save_file(tensors, temporary, metadata={"format": "pt"})
        os.replace(temporary, folder / WEIGHTS)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder / WEIGHTS)) from error
    finally:
        temporary.unlink(missing_ok=True)
    write_fingerprint(folder, {**fingerprint, "weights_sha256": tensor_sha256(tensors)})


def write_fingerprint(folder: str | Path, content: Mapping[str, Any]) -> None:
    """Write `fingerprint.json`, at once or not at all."""
    temporary = Path(folder) / f".{FINGERPRINT}.tmp"
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(temporary, Path(folder) / FINGERPRINT)


def load_state(folder: str | Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a folder whose names begin with `prefix`, without it, on the CPU.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: a broken file, or no tensor under the prefix.
    """
    with _opened(folder) as file:
        return {name[len(prefix) :]: file.get_tensor(name) for name in _names(file, prefix, folder)}


@contextmanager
def _opened(folder: str | Path) -> Iterator[Any]:
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no weights here; run the stage that writes this folder first")
    try:
        with safe_open(path, "pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path}: no valid safetensors file ({error}); make it anew") from error


def _names(file: Any, prefix: str, folder: str | Path) -> list[str]:
    found = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (it is no mapping)
    if not found:
        known = sorted({name.split(".")[0] + "." for name in file.keys()})  # noqa: SIM118
        raise ValueError(
            f"{Path(folder) / WEIGHTS}: no tensor begins with {prefix!r}; "
            f"the names begin with {', '.join(known) or 'nothing, the file is empty'}"
        )
    return found


def load_model(folder: str | Path) -> nn.Module:
    """Build the `model` node of `<folder>/recipe.yaml`, load the weights strictly, return the model in eval mode.

    Files that the node names are found beside the weights, or as `taken_file` says.

    Raises:
        ValueError: no model in the recipe; or missing, unexpected or differently shaped tensors, all listed.
        FileNotFoundError: no weights there.
    """
    folder = Path(folder)
    recipe = load_recipe(folder / RECIPE)
    if "model" not in recipe:
        raise ValueError(f"{folder / RECIPE}: has no 'model'; this stage made none")
    state = load_state(folder)
    model = build(with_files(recipe["model"], folder), "model")
    own = model.state_dict()
    problems = [f"missing {name}" for name in sorted(own.keys() - state.keys())]
    problems += [f"unexpected {name}" for name in sorted(state.keys() - own.keys())]
    problems += _shape_differences(_shapes(state), _shapes(own))
    if problems:
        raise ValueError(f"{folder / WEIGHTS} does not fit the model of its recipe: {_some(problems)}")
    model.load_state_dict(state)
    return model.eval()


def with_files(node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A stage's `model` node with the paths of its arguments `..._file` as `taken_file` finds them."""
    return {
        name: str(taken_file(folder, value)) if name.endswith("_file") and isinstance(value, str) else value
        for name, value in node.items()
    }


def taken_file(folder: Path, recorded: str) -> Path:
    """A path that a stage's recipe recorded: what the stage exported under its name, else the path, also where the run was moved
    or is used from another working directory.
    """
    path = Path(recorded)
    beside = folder.parent.joinpath(*path.parts[-2:]) if len(path.parts) > 1 else folder.parent / path
    return next((p for p in (folder / path.name, path, beside, folder.parent / path.name) if p.exists()), path)


def init_from(
    model: nn.Module,
    folder: str | Path,
    source_prefix: str = "",
    target_prefix: str = "",
    allow_missing: bool | Sequence[str] = (),
) -> KeyReport:
    """Copy weights of another stage into `model`, in place; nothing is copied when anything is refused.

    A stage that begins with these weights begins at step 0 with a fresh optimizer; to go on with a stage that was cut off is
    something else (`training.resume`).

    Args:
        model: receives the tensors below `target_prefix`; those on the meta device are compared only.
        folder: stage folder.
        source_prefix: tensors of the folder to take; it is replaced by `target_prefix`.
        target_prefix: where they go.
        allow_missing: patterns (regular expressions over whole names) of tensors below `target_prefix` that the folder may lack;
            True: any.

    Raises:
        ValueError: shapes that differ, tensors missing that may not, or nothing that fits.
        FileNotFoundError: no weights there.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(target_prefix)}
    with _opened(folder) as file:
        names = {target_prefix + name[len(source_prefix) :]: name for name in _names(file, source_prefix, folder)}
        shapes = {name: file.get_slice(source).get_shape() for name, source in names.items()}
        report = _report(shapes, _shapes(own))
        _refuse(report, Path(folder) / WEIGHTS, allow_missing)
        with torch.no_grad():
            for name in report.loaded:
                if not own[name].is_meta:
                    own[name].copy_(file.get_tensor(names[name]))
    return report


def _report(shapes: Mapping[str, Sequence[int]], own: Mapping[str, Sequence[int]]) -> KeyReport:
    return KeyReport(
        loaded=tuple(sorted(own.keys() & shapes.keys())),
        missing=tuple(sorted(own.keys() - shapes.keys())),
        unexpected=tuple(sorted(shapes.keys() - own.keys())),
        reshaped=tuple(_shape_differences(shapes, own)),
    )


def _refuse(report: KeyReport, where: Path, allow_missing: bool | Sequence[str]) -> None:
    if report.reshaped:
        raise ValueError(f"{where}: shapes differ: {_some(report.reshaped)}")
    if not report.loaded:
        raise ValueError(
            f"{where}: no tensor fits; it has {_some(report.unexpected)}, the model has {_some(report.missing)}; "
            "check source_prefix and target_prefix"
        )
    refused = [
        name
        for name in report.missing
        if allow_missing is not True and not any(re.fullmatch(p, name) for p in allow_missing or ())
    ]
    if refused:
        raise ValueError(f"{where}: missing {_some(refused)}; name them in allow_missing if they may keep their initial values")


def read_fingerprint(folder: str | Path) -> dict[str, Any]:
    """`fingerprint.json` of a stage or shard folder. Raises FileNotFoundError, or ValueError for a broken file."""
    path = Path(folder) / FINGERPRINT
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no fingerprint here; run the stage that writes this folder first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); make it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not a mapping; make it anew")
    return content


def check_fingerprint(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Refuse data or weights made for something else.

    Args:
        expected: what must hold; nested mappings are compared key by key, lists and tuples are the same.
        found: a fingerprint; keys that are not expected do not matter.
        where: the folder it comes from, for the message.

    Raises:
        ValueError: one line per key that differs, with both values.
    """
    lines = [f"{where}: fingerprint {line}" for line in _differences(expected, found, "")]
    if lines:
        raise ValueError("\n".join(lines) + "\nmake the folder anew with the present recipe, or take the one that fits")


def tensor_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes; the order of the mapping does not matter."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _differences(expected: Mapping[str, Any], found: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for key, value in expected.items():
        other = found.get(key, "nothing") if isinstance(found, Mapping) else "nothing"
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            lines += _differences(value, other, f"{prefix}{key}.")
        elif _listed(value) != _listed(other):
            lines.append(f"{prefix}{key}: expected {_listed(value)}, found {_listed(other)}")
    return lines


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, list | tuple) else value


def _shapes(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in state.items()}


def _shape_differences(found: Mapping[str, Sequence[int]], own: Mapping[str, Sequence[int]]) -> list[str]:
    return [
        f"{name}: {list(found[name])} in the file, {list(own[name])} in the model"
        for name in sorted(own.keys() & found.keys())
        if list(found[name]) != list(own[name])
    ]


def _some(names: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more
