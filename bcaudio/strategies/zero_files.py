"""Checkpoints of ZeRO: a safetensors file per rank with the pieces it owns; readable by any number of ranks and either stage.

A piece is a stretch of a flattened tensor, named `kind:start:name`; kind is `fp32` (master weights), `value` (frozen parameters
and buffers) or a key of the optimizer's state (`exp_avg`, `exp_avg_sq`); start counts elements. DeepSpeed's own checkpoints are
pickles tied to a number of ranks, and lack what its export needs under some settings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bcaudio.distributed import rank, world_size
from bcaudio.pretrained.tensor_files import DTYPES, FileRange, StoredTensor, read_tensor_file, write_tensor_file
from bcaudio.strategies.sharding import LazyTensor

PATTERN = "rank-*.safetensors"


@dataclass(frozen=True)
class Piece:
    """The stretch of a trained parameter that this rank's optimizer keeps.

    Args:
        start: of the stretch in the flattened parameter; size: elements.
        flat: the optimizer's flat fp32 tensor; at: where the stretch begins in it.
    """

    start: int
    size: int
    flat: Tensor
    at: int

    def of(self, tensor: Tensor) -> Tensor:
        """The stretch in a tensor laid out like `flat`."""
        return tensor.narrow(0, self.at, self.size)


def save_zero(folder: Path, module: nn.Module, optimizer: Any) -> dict[str, Any]:
    """Write this rank's `rank-<n>.safetensors`; every rank calls it.

    Args:
        folder: of the checkpoint.
        module: the LightningModule under ZeRO.
        optimizer: DeepSpeed's, around torch's.

    Returns:
        what else a reader must know: shapes, dtypes, second names of tied parameters, steps, learning rates, number of ranks.
    """
    inner, pieces = optimizer.optimizer, {}
    for name, piece in _trained(module, optimizer):
        if piece.size > 0:
            kinds = {"fp32": piece.flat, **_flat_states(inner.state[piece.flat], piece.flat)}
            pieces |= {f"{kind}:{piece.start}:{name}": piece.of(flat) for kind, flat in kinds.items()}
    for name, start, tensor in _untrained(module):
        pieces[f"value:{start}:{name}"] = tensor
    lazy = {name: LazyTensor(tuple(tensor.shape), tensor.dtype, tensor.detach) for name, tensor in pieces.items()}
    write_tensor_file(folder / f"rank-{rank():05d}.safetensors", lazy)  # type: ignore[arg-type]
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    state = module.state_dict(keep_vars=True)
    return {
        "world_size": world_size(),
        "shapes": {name: list(getattr(tensor, "ds_shape", tensor.shape)) for name, tensor in state.items()},
        "trained": sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad),
        "aliases": {name: first[id(t)] for name, t in state.items() if id(t) in first and first[id(t)] != name},
        "steps": max((float(entry["step"]) for entry in inner.state.values() if "step" in entry), default=0.0),
        "lrs": [group["lr"] for group in inner.param_groups],
    }


def load_zero(folder: Path, about: Mapping[str, Any], module: nn.Module, optimizer: Any) -> None:
    """Put a checkpoint into a module under ZeRO; every rank reads what it needs.

    Args:
        folder: of the checkpoint.
        about: what save_zero returned.
        module, optimizer: as in save_zero; the number of ranks and the stage may be others.

    Raises:
        ValueError: other trained parameters or shapes than those of the checkpoint, or a piece is missing.
    """
    stored, inner = ZeroFiles(folder), optimizer.optimizer
    shapes = {name: list(getattr(t, "ds_shape", t.shape)) for name, t in module.state_dict(keep_vars=True).items()}
    trained = sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    if shapes != about["shapes"] or trained != about["trained"]:
        names = set(trained) ^ set(about["trained"])
        names |= {name for name in shapes.keys() | about["shapes"].keys() if shapes.get(name) != about["shapes"].get(name)}
        raise ValueError(
            f"{folder}: the checkpoint has other parameters or trains others ({', '.join(sorted(names)[:5])}); "
            "a stage goes on only as it began: use init_from to begin another with these weights"
        )
    for name, piece in _trained(module, optimizer):
        state = inner.state[piece.flat]
        if piece.flat.numel() and "step" not in state:
            state["step"] = torch.tensor(about["steps"], dtype=torch.float32)
        for kind in stored.kinds(name) if piece.size > 0 else ():
            target = piece.flat if kind == "fp32" else state.setdefault(kind, torch.zeros_like(piece.flat))
            piece.of(target.data).copy_(stored.read(kind, name, piece.start, piece.size))
    for group, lr in zip(inner.param_groups, about["lrs"], strict=True):
        group["lr"] = lr
    _load_weights(module, stored)
    kept = getattr(optimizer, "persistent_parameters", [])  # small parameters that every rank of stage 3 keeps whole
    if kept:
        kept[0].partition(kept)
        kept[0].all_gather(kept)


@torch.no_grad()
def _load_weights(module: nn.Module, stored: ZeroFiles) -> None:
    for name, tensor in _named(module):
        kind = "fp32" if getattr(tensor, "requires_grad", False) else "value"
        if hasattr(tensor, "ds_tensor"):
            local = tensor.ds_tensor
            start = rank() * local.numel()
            size = max(0, min(local.numel(), tensor.ds_numel - start))
            local.narrow(0, 0, size).copy_(stored.read(kind, name, start, size))
        else:
            tensor.data.copy_(stored.read(kind, name, 0, tensor.numel()).reshape(tensor.shape))


class ZeroFiles:
    """The files of all ranks, as one set of flattened tensors.

    Raises:
        FileNotFoundError: none there; ValueError: one is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._pieces: dict[str, dict[str, list[tuple[int, StoredTensor]]]] = defaultdict(lambda: defaultdict(list))
        files = sorted(folder.glob(PATTERN))
        if not files:
            raise FileNotFoundError(f"{folder}: no {PATTERN} here; name the folder of a checkpoint written under ZeRO")
        for file in files:
            for label, tensor in read_tensor_file(file).items():
                kind, start, name = label.split(":", 2)
                self._pieces[name][kind].append((int(start), tensor))
        for kinds in self._pieces.values():
            for pieces in kinds.values():
                pieces.sort(key=lambda piece: piece[0])

    def kinds(self, name: str) -> list[str]:
        """What is kept of a tensor: `value`, or `fp32` and the optimizer's states."""
        return list(self._pieces[name])

    def stored(self, kind: str, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """A tensor in full.

        Raises:
            ValueError: a piece is missing.
        """
        ranges = list(self._ranges(kind, name, 0, torch.Size(shape).numel()))
        return StoredTensor(ranges[0][1] if ranges else "F32", shape, tuple(part for part, _ in ranges))

    def read(self, kind: str, name: str, start: int, size: int) -> Tensor:
        """`size` elements from `start` on, [size].

        Raises:
            ValueError: a piece is missing.
        """
        parts = []
        for part, dtype in self._ranges(kind, name, start, size):
            kind_of = getattr(torch, DTYPES[dtype][0].removeprefix("torch."))
            mapped = torch.from_file(str(part.path), shared=False, size=part.start + part.size, dtype=torch.uint8)
            parts.append(mapped[part.start :].clone().view(kind_of))
        return torch.cat(parts) if parts else torch.empty(0)

    def _ranges(self, kind: str, name: str, start: int, size: int) -> Iterator[tuple[FileRange, str]]:
        at, end = start, start + size
        for first, tensor in self._pieces[name][kind]:
            width = DTYPES[tensor.dtype][1]
            last = first + tensor.num_bytes // width
            if first <= at < last and at < end:
                (whole,) = tensor.ranges
                upto = min(last, end)
                yield FileRange(whole.path, whole.start + (at - first) * width, (upto - at) * width), tensor.dtype
                at = upto
        if at < end:
            raise ValueError(f"{self.folder}: elements {at} to {end} of {name} ({kind}) are missing; take another checkpoint")


def _flat_states(state: Mapping[str, Any], flat: Tensor) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if torch.is_tensor(value) and value.shape == flat.shape}


def _trained(module: nn.Module, optimizer: Any) -> Iterator[tuple[str, Piece]]:
    """This rank's piece of every trained parameter (of size 0 or less where it has none, only under stage 3)."""
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_id"):
            group, at, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
            start = rank() * size
            yield name, Piece(start, min(size, parameter.ds_numel - start), optimizer.fp32_partitioned_groups_flat[group], at)
        elif (mapping := parameter._hp_mapping) is not None:
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            address = mapping.hp_fragment_address
            yield name, Piece(mapping.lp_fragment_address.start, address.numel, flat, address.start)


def _untrained(module: nn.Module) -> Iterator[tuple[str, int, Tensor]]:
    """(name, start, flat piece) of the frozen parameters and buffers that this rank writes."""
    for number, (name, tensor) in enumerate(_named(module)):
        if getattr(tensor, "requires_grad", False):
            continue
        if hasattr(tensor, "ds_tensor"):
            start = rank() * tensor.ds_tensor.numel()
            size = min(tensor.ds_tensor.numel(), tensor.ds_numel - start)
            if size > 0:
                yield name, start, tensor.ds_tensor.data.narrow(0, 0, size)
        elif number % world_size() == rank():
            yield name, 0, tensor.detach().reshape(-1)


def _named(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, once each, and the buffers of the state dict."""
    yield from module.named_parameters()
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    yield from ((name, tensor) for name, tensor in module.state_dict(keep_vars=True).items() if name not in parameters)
