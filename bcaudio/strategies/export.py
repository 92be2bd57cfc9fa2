"""From a checkpoint of any strategy to the one file that stages hand to each other."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bcaudio.checkpoint import FINGERPRINT, RECIPE, WEIGHTS, read_fingerprint, write_fingerprint
from bcaudio.pretrained.tensor_files import StoredTensor, write_tensor_file
from bcaudio.recipe.build import build
from bcaudio.recipe.errors import naming_full_disk
from bcaudio.recipe.load import load_recipe
from bcaudio.strategies.sharding import NAMES, LazyTensor
from bcaudio.strategies.zero_files import ZeroFiles

PREFIX = "model."  # a StageModule keeps its model under this name


def write_weights(folder: Path, tensors: Mapping[str, LazyTensor | StoredTensor], writes: bool = True) -> str:
    """Write `model.safetensors`, at once or not at all; one tensor is in memory at a time.

    Args:
        folder: where to; made when missing.
        tensors: by name.
        writes: False on the ranks that only help to make tensors which lie in pieces.

    Returns:
        SHA-256 of the tensors (`checkpoint.tensor_sha256`); empty where nothing was written.

    Raises:
        OSError: with the path, when the disk is full.
    """
    if not writes:
        for name in sorted(tensors):
            tensors[name].make()  # type: ignore[union-attr]
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{WEIGHTS}.tmp"
    try:
        with naming_full_disk(folder / WEIGHTS):
            digest = write_tensor_file(temporary, tensors)  # type: ignore[arg-type]  # both kinds have shape, dtype and bytes
        os.replace(temporary, folder / WEIGHTS)
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def export_checkpoint(checkpoint: str | Path, out: str | Path) -> None:
    """Write the weights of a checkpoint as a folder that `init_from`, `load_model` and the published formats take.

    Trained tensors come from the fp32 masters, frozen ones and buffers are complete, tied ones stand under each of their names.
    LoRA's adapters are merged. Recipe and fingerprint are those of the stage.

    Args:
        checkpoint: `<stage>/checkpoints/step=<n>.ckpt`, of any strategy and number of ranks.
        out: new folder.

    Raises:
        FileNotFoundError: no checkpoint, or no recipe in the stage folder above it.
        ValueError: other names, shapes or pieces than the recipe's model has.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    stage = checkpoint.resolve().parent.parent
    if not (checkpoint / "state.ckpt").is_file():
        raise FileNotFoundError(f"{checkpoint}: no checkpoint; name a folder <stage>/checkpoints/step=<n>.ckpt")
    state = torch.load(checkpoint / "state.ckpt", map_location="cpu", mmap=True, weights_only=True)
    recipe = load_recipe(stage / RECIPE)
    lora = build(recipe["lora"], "lora") if recipe.get("lora") else None
    with torch.device("meta"):
        model = build(recipe["model"], "model")
        if lora is not None:
            lora.apply(model, None)
    own = model.state_dict()
    shapes = state["zero"]["shapes"] if "zero" in state else {n: list(t.shape) for n, t in state["state_dict"].items()}
    found = {name.removeprefix(PREFIX): shape for name, shape in shapes.items() if name.startswith(PREFIX)}
    expected = {name: list(tensor.shape) for name, tensor in own.items()}
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ValueError(f"{checkpoint}: does not fit the model of {stage / RECIPE}: {', '.join(names[:10])}")
    if "zero" in state:
        stored, aliases = ZeroFiles(checkpoint), state["zero"]["aliases"]
        tensors: dict[str, LazyTensor | StoredTensor] = {
            name: _stored(stored, aliases.get(PREFIX + name, PREFIX + name), tensor, lora is not None)
            for name, tensor in own.items()
        }
    else:
        tensors = {
            name: LazyTensor(tuple(tensor.shape), tensor.dtype, state["state_dict"][PREFIX + name].detach)
            for name, tensor in own.items()
        }
    digest = write_weights(out, tensors if lora is None else lora.merged(tensors))
    content = read_fingerprint(stage) if (stage / FINGERPRINT).is_file() else dict(recipe["fingerprint"])
    write_fingerprint(out, {**content, "weights_sha256": digest})
    (out / RECIPE).write_text((stage / RECIPE).read_text(encoding="utf-8"), encoding="utf-8")


def _stored(files: ZeroFiles, name: str, like: Tensor, lazy: bool) -> LazyTensor | StoredTensor:
    """A tensor's bytes as they lie in the files, unless it is to be `lazy`; cast where the dtype differs: under bf16 frozen
    weights were kept in bf16."""
    kind, shape = "fp32" if "fp32" in files.kinds(name) else "value", tuple(like.shape)
    found = files.stored(kind, name, shape)
    if found.dtype == NAMES[like.dtype] and not lazy:
        return found
    return LazyTensor(shape, like.dtype, lambda: files.read(kind, name, 0, like.numel()).reshape(shape))
