"""Ranks whose weights drift apart are named; one changed bit is enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcaudio.callbacks.replica_check import ReplicaCheck, bit_sum


@dataclass
class Batch:
    step: int


class Module(L.LightningModule):
    """`fault(module, step)` runs after each update."""

    def __init__(self, fault: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.fault = nn.Linear(4, 4), fault
        self.model.bias.requires_grad_(False)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.model(torch.ones(1, 4)).square().sum()

    def on_before_zero_grad(self, optimizer: Any) -> None:
        if self.fault is not None:
            self.fault(self, self.trainer.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(folder: Path, steps: Sequence[int], fault: Any = None, num_ranks: int = 3, every_n_steps: int = 4) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=num_ranks, strategy="ddp",
                        callbacks=[ReplicaCheck(every_n_steps)], use_distributed_sampler=False, **quiet)  # fmt: skip
    trainer.fit(Module(fault), DataLoader([Batch(step) for step in steps], batch_size=None))


def flip_one_bit(module: Module, step: int) -> None:
    if step == 5:
        module.model.weight.data.view(torch.int32)[2, 3] ^= 1


def test_the_rank_with_one_flipped_bit_is_named_on_all_ranks_at_the_next_check(tmp_path: Path, run_ranks: Any) -> None:
    ended = run_ranks(lambda rank: fit(tmp_path, range(12), flip_one_bit if rank == 1 else None), 3)
    assert ended.codes == [1, 1, 1]
    message = "DivergedRankError: step 7: rank 1 differs in model.weight; 2 of 3 ranks agree"
    assert all(message in error for error in ended.errors), ended.errors


def test_a_rank_at_another_step_is_named(tmp_path: Path, run_ranks: Any) -> None:
    ended = run_ranks(lambda rank: fit(tmp_path, range(1, 9) if rank == 2 else range(8)), 3)
    assert ended.codes == [1, 1, 1]
    assert all("rank 2 is at step 4, not 3; 2 of 3 ranks agree" in error for error in ended.errors), ended.errors


def test_ranks_that_agree_go_on_and_what_is_frozen_is_not_compared(tmp_path: Path, run_ranks: Any) -> None:
    def frozen(module: Module, step: int) -> None:
        module.model.bias.data.fill_(torch.distributed.get_rank())  # gradients differ, but DDP gives all ranks their mean

    ended = run_ranks(lambda rank: fit(tmp_path, range(8), frozen, num_ranks=2), 2)
    assert ended.codes == [0, 0], ended.errors


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_bit_sum_sees_every_bit_and_nans(dtype: torch.dtype) -> None:
    tensor = torch.arange(6, dtype=dtype)
    whole = int(bit_sum(tensor))
    assert whole == int(tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]).long().sum())
    tensor[2] = float("nan")
    assert int(bit_sum(tensor)) != whole
    assert int(bit_sum(tensor)) == int(bit_sum(tensor.clone()))
