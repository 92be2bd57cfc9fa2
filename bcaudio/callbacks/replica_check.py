"""Are the ranks' copies of the weights still the same?"""

from __future__ import annotations

from collections import Counter
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from bcaudio.distributed import is_distributed, world_size

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class DivergedRankError(RuntimeError):
    """A rank's weights, or the step it is at, differ from the others'."""


class ReplicaCheck(L.Callback):
    """Compares step and trained parameters of all ranks by the sum of their bits; a rank that differs is named, and all stop.

    Data-parallel ranks apply the same reduced gradient to the same weights, so the weights agree bit for bit; a rank that does
    not (a faulty device, a gradient that was not reduced) spoils the run unseen. Sharded weights have no copies and are left out.
    One pass over the parameters and one small collective per check.

    Args:
        every_n_steps: how often.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if every_n_steps < 1:
            raise ValueError(f"ReplicaCheck: every_n_steps is {every_n_steps}; it must be at least 1")
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.replicated = {
            name: p for name, p in pl_module.named_parameters() if p.requires_grad and not is_sharded(p) and p.numel() > 0
        }
        if is_distributed() and not self.replicated:
            rank_zero_warn("ReplicaCheck: the trained weights are sharded over the ranks, so there are no copies to compare")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = int(getattr(batch, "step", batch_idx))
        last = getattr(batch, "micro", 0) + 1 == getattr(batch, "num_micro", 1)
        if is_distributed() and last and (batch_idx + 1) % (self.every_n_steps * getattr(batch, "num_micro", 1)) == 0:
            self.check(step, pl_module.device)

    def check(self, step: int, device: torch.device) -> None:
        """Compare now; every rank must call it.

        Raises:
            DivergedRankError: on every rank, naming the ranks in the minority (of two: the one that is not rank 0) and what
                differs.
        """
        own = torch.stack([torch.tensor(step, device=device), *(bit_sum(p) for p in self.replicated.values())])
        gathered = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(gathered, own)
        found = [tuple(tensor.tolist()) for tensor in gathered]
        usual, _ = Counter(found).most_common(1)[0]  # of equally many the first to appear, rank 0's
        problems = []
        for number, sums in enumerate(found):
            if sums == usual:
                continue
            names = [name for name, a, b in zip(self.replicated, sums[1:], usual[1:], strict=True) if a != b]
            what = [f"is at step {sums[0]}, not {usual[0]}"] if sums[0] != usual[0] else []
            what += (
                [f"differs in {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"] if names else []
            )
            problems.append(f"rank {number} {' and '.join(what)}")
        if problems:
            raise DivergedRankError(
                f"step {step}: {'; '.join(problems)}; {found.count(usual)} of {len(found)} ranks agree. Weights must be the same "
                "on all of them: check that rank's device and memory, then resume from the last checkpoint before this step"
            )


def is_sharded(parameter: nn.Parameter) -> bool:
    """Whether a rank holds only its part: ZeRO-3 (DeepSpeed marks such parameters) and FSDP."""
    return hasattr(parameter, "ds_id") or isinstance(parameter, DTensor)


def bit_sum(tensor: Tensor) -> Tensor:
    """int64 scalar: the sum of a tensor's elements read as integers; any one changed bit changes it, NaNs included."""
    return tensor.detach().contiguous().view(INTEGERS[tensor.element_size()]).sum(dtype=torch.int64)
