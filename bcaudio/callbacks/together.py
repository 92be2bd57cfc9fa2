"""What ranks must do together while a model is asked in training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
import torch.distributed as dist

from bcaudio.callbacks.replica_check import is_sharded
from bcaudio.distributed import all_reduce_sum, is_distributed, world_size


def in_pieces(module: L.LightningModule) -> bool:
    """Whether every forward pass waits for all ranks, since each holds only its part of the weights (ZeRO-3, FSDP)."""
    return is_distributed() and any(is_sharded(parameter) for parameter in module.parameters())


@contextmanager
def same_steps(module: L.LightningModule) -> Iterator[None]:
    """Every rank's generation takes as many steps as the longest one, where weights lie in pieces.

    The ranks are asked the same, but a kernel whose sums depend on the order of threads may end an answer earlier on one of them.
    """
    generator = getattr(module, "generator", None)
    if generator is None or not in_pieces(module):
        yield
        return
    before = generator.going
    generator.going = lambda going: bool(all_reduce_sum(torch.tensor(int(going), device=module.device)))
    try:
        yield
    finally:
        generator.going = before


def everyones(mine: Any) -> list[Any]:
    """What every rank gives, on every rank; plain objects."""
    found: list[Any] = [mine] * world_size()
    if is_distributed():
        dist.all_gather_object(found, mine)
    return found


def from_rank_0(mine: Any) -> Any:
    """What rank 0 gives, on every rank."""
    box = [mine]
    if is_distributed():
        dist.broadcast_object_list(box)
    return box[0]
