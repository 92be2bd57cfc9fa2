"""Models whose parameters lie in pieces on several ranks: how they come to be, and how to see them whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bcaudio.distributed import is_distributed

CHUNK_BYTES = 8 * 2**20
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True)
class LazyTensor:
    """A tensor made when its bytes are wanted; `pretrained.tensor_files` writes it as it writes its own.

    Args:
        shape: sizes; kind: torch's dtype.
        make: gives the tensor; where it lies in pieces, every rank must call it at the same time.
    """

    shape: tuple[int, ...]
    kind: torch.dtype
    make: Callable[[], Tensor]

    @property
    def dtype(self) -> str:
        """The dtype's name in safetensors."""
        return NAMES[self.kind]

    @property
    def num_bytes(self) -> int:
        """Size in bytes."""
        return torch.Size(self.shape).numel() * self.kind.itemsize

    def tensor(self) -> Tensor:
        """On the CPU, contiguous, in the wanted dtype."""
        return self.make().detach().to("cpu", self.kind).contiguous()

    def chunks(self) -> Iterator[memoryview]:
        """The bytes in pieces of at most CHUNK_BYTES."""
        flat = memoryview(self.tensor().reshape(-1).view(torch.uint8).numpy())
        for start in range(0, len(flat), CHUNK_BYTES):
            yield flat[start : start + CHUNK_BYTES]


def shard_from_first_rank(model: nn.Module, config: Mapping[str, Any], dtype: torch.dtype | None = None) -> None:
    """Part a model into ZeRO-3 shards, in place.

    Only rank 0's values count; parameters and buffers of other ranks may be on the meta device, so that the model exists once in
    host memory, whatever the number of ranks, and never whole on a GPU. Parameter by parameter it is sent, and each rank keeps
    its piece. The weights are then those of a single process with the same seed, which a model that is sharded while it is built
    does not have.

    Args:
        model: with parameters that are not sharded yet.
        config: of DeepSpeed.
        dtype: of the shards of floating-point parameters; None leaves it.
    """
    import deepspeed

    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                data = torch.empty(parameter.shape, dtype=parameter.dtype) if parameter.is_meta else parameter.data
                data = data.to(dtype) if dtype is not None and data.is_floating_point() else data
                made[id(parameter)] = nn.Parameter(data, parameter.requires_grad)
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cpu") if buffer.is_meta else buffer
    deepspeed.zero.Init(module=model, config_dict_or_path=dict(config))
    device = torch.device(deepspeed.get_accelerator().current_device_name())
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer = buffer.to(device)
                if is_distributed():
                    dist.broadcast(buffer, src=0)


def whole_tensors(model: nn.Module, dtypes: Mapping[str, torch.dtype] | None = None) -> dict[str, LazyTensor]:
    """The state of a model under any strategy, in full: fp32 masters of what is trained, and everything that is not.

    Args:
        model: a model, sharded or not.
        dtypes: name -> dtype to deliver; the present one where not given.

    Returns:
        name (of the state dict) -> tensor; all ranks must make the same tensors in the same order.
    """
    state = model.state_dict(keep_vars=True)  # first: FSDP parts what it has gathered
    parameters = dict(model.named_parameters(remove_duplicate=False))
    found = {}
    for name, tensor in state.items():
        shape = tuple(getattr(tensor, "ds_shape", tensor.shape))
        make = _whole(parameters[name]) if name in parameters else tensor.detach
        found[name] = LazyTensor(shape, (dtypes or {}).get(name, tensor.dtype), make)
    return found


def _whole(parameter: nn.Parameter) -> Callable[[], Tensor]:
    if isinstance(parameter, DTensor):
        return parameter.detach().full_tensor
    if not hasattr(parameter, "ds_id") and not hasattr(parameter, "_hp_mapping"):
        return parameter.detach

    def gather() -> Tensor:
        import deepspeed

        if parameter.requires_grad:
            return deepspeed.utils.safe_get_full_fp32_param(parameter)
        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().clone()

    return gather


def sha256_of(tensors: Mapping[str, LazyTensor]) -> str:
    """What `checkpoint.tensor_sha256` gives for these tensors; one of them is in memory at a time."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.kind), list(tensor.shape)]).encode())
        for chunk in tensor.chunks():
            digest.update(chunk)
    return digest.hexdigest()
