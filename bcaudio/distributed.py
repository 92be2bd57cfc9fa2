"""The few collectives the models need; every function is a no-op in a single process."""

import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True inside a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """The number of this process, 0 when alone."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes work together, 1 when alone."""
    return dist.get_world_size() if is_distributed() else 1


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over all ranks, in place; returns the same tensor. Shape and dtype must agree on every rank."""
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Give every rank the tensor of rank `source`, in place; returns the same tensor. Shape and dtype must agree."""
    if is_distributed():
        dist.broadcast(tensor, src=source)
    return tensor
