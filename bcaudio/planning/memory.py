"""Bytes of weights, gradients, optimizer state and communication buffers that a rank holds, by ZeRO stage.

Stage 0 is DDP with torch's AdamW. Stages 1 to 3 are DeepSpeed's: under bf16 the weights and gradients are bf16 and the optimizer
keeps fp32 masters beside AdamW's two moments, under fp32 a second copy of the weights in their place. docs/plans/accuracy.md
compares these figures with what an engine really holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from torch import nn

PERSISTENT_ELEMENTS = 100_000  # ZeRO-3 keeps parameters up to this size whole on every rank (stage3_param_persistence_threshold)
LIVE_ELEMENTS = 1_000_000_000  # elements ZeRO-3 gathers at a time at most (stage3_max_live_parameters)
BUCKET_ELEMENTS = 200_000_000


@dataclass(frozen=True)
class ParameterSize:
    """One parameter: elements, whether it learns, and its optimizer group (decayed or not)."""

    numel: int
    trained: bool
    group: int = 0


@dataclass(frozen=True)
class Sharding:
    """How a stage spreads its state over ranks.

    Args:
        stage: of ZeRO; 0 is DDP.
        world_size: ranks.
        bf16: whether the trainer's precision is bf16-mixed or bf16-true.
        offload_optimizer, offload_parameters: to the host's memory; stages 1 to 3, and 3.
        bucket_elements: gradients that travel together.
        persistent_elements: see PERSISTENT_ELEMENTS.
    """

    stage: int
    world_size: int
    bf16: bool = True
    offload_optimizer: bool = False
    offload_parameters: bool = False
    bucket_elements: int = BUCKET_ELEMENTS
    persistent_elements: int = PERSISTENT_ELEMENTS

    @property
    def weight_bytes(self) -> int:
        """Bytes of a weight and of its gradient: DDP keeps fp32 weights (autocast makes bf16 copies), DeepSpeed casts them."""
        return 2 if self.bf16 and self.stage > 0 else 4


@dataclass(frozen=True)
class StateBytes:
    """What one rank holds between two steps; `host_*` lies in the host's memory."""

    weights: int
    gradients: int
    optimizer: int
    host: int = 0

    @property
    def total(self) -> int:
        """On the device."""
        return self.weights + self.gradients + self.optimizer


def sizes_of(modules: Iterable[nn.Module]) -> list[ParameterSize]:
    """The parameters of some modules, in the optimizer groups of `training.optim`: matrices decay, vectors do not."""
    found = {id(p): p for module in modules for p in module.parameters()}
    return [ParameterSize(p.numel(), p.requires_grad, int(p.ndim <= 1)) for p in found.values()]


def state_bytes(sizes: Sequence[ParameterSize], sharding: Sharding) -> StateBytes:
    """Weights, gradients and optimizer state of a rank, between the last backward pass of a step and the step itself; of the rank
    that holds most, where they are not even.

    Raises:
        ValueError: a stage that does not exist.
    """
    stage, ranks, weight = sharding.stage, sharding.world_size, sharding.weight_bytes
    if stage not in range(4):
        raise ValueError(f"ZeRO stage is {stage}; use 0 (DDP), 1, 2 or 3")
    trained = sum(size.numel for size in sizes if size.trained)
    frozen = sum(size.numel for size in sizes if not size.trained)
    if stage == 0:
        return StateBytes(4 * (trained + frozen), 4 * trained, 8 * trained)
    if stage == 3:
        pieces = [(math.ceil(size.numel / ranks), size.trained) for size in sizes]
        own = sum(numel for numel, learns in pieces if learns)
        state = StateBytes(weight * sum(n for n, _ in pieces), weight * own, 12 * own)
        kept = weight * sum(size.numel for size in sizes if size.numel <= sharding.persistent_elements)
        moved = 0
        if sharding.offload_parameters:
            moved, state = state.weights, replace(state, weights=0)
        state = replace(state, weights=state.weights + kept)
    else:
        groups = [[size.numel for size in sizes if size.trained and size.group == g] for g in {size.group for size in sizes}]
        own = sum(_piece(group, ranks) for group in groups)
        held = max(sum(_gradients_of(group, rank, ranks) for group in groups) for rank in range(ranks))
        state = StateBytes(weight * (own * ranks + frozen), weight * held, 12 * own)
        moved = 0
    if sharding.offload_optimizer:
        moved, state = moved + state.optimizer + 4 * own, replace(state, optimizer=0, gradients=0)
    return replace(state, host=moved)


def _piece(group: Sequence[int], ranks: int) -> int:
    """Elements of a rank's piece of an optimizer group, which DeepSpeed flattens and pads."""
    multiple = 2 * ranks
    return math.ceil(sum(group) / multiple) * multiple // ranks


def _gradients_of(group: Sequence[int], rank: int, ranks: int) -> int:
    """Elements of gradients that stages 1 and 2 keep on a rank: parameters its piece touches, in full, and the padding."""
    piece = _piece(group, ranks)
    first, last = rank * piece, (rank + 1) * piece
    ends = list(accumulate(group))
    touched = sum(n for n, end in zip(group, ends, strict=True) if end > first and end - n < last)
    return touched + max(0, last - max(first, sum(group)))


def communication_bytes(sizes: Sequence[ParameterSize], sharding: Sharding) -> int:
    """Buffers through which gradients and parameters travel.

    DDP holds every gradient a second time in its buckets, ZeRO-1 until they are reduced. ZeRO-1 and 2 have two buckets (one is
    filled while the other travels), ZeRO-3 one, and beside it the parameters that are gathered.
    """
    weight, trained = sharding.weight_bytes, sum(size.numel for size in sizes if size.trained)
    if sharding.stage == 0:
        return 4 * trained if sharding.world_size > 1 else 0
    if sharding.stage < 3:
        return weight * (2 * sharding.bucket_elements + (trained if sharding.stage == 1 else 0))
    gathered = sum(size.numel for size in sizes if size.numel > sharding.persistent_elements)
    return weight * (sharding.bucket_elements + min(gathered, LIVE_ELEMENTS))


def step_bytes(sizes: Sequence[ParameterSize], sharding: Sharding) -> int:
    """What the optimizer's step needs for a moment, when no activation lives: torch's AdamW makes a tensor as large as each
    group of what it steps, and DeepSpeed an fp32 copy of the gradients."""
    if sharding.offload_optimizer:
        return 0
    trained = sum(size.numel for size in sizes if size.trained)
    return 4 * trained if sharding.stage == 0 else 8 * math.ceil(trained / sharding.world_size)
