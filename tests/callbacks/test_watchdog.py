"""Injected stalls and failures: the rank is named, and every rank ends in time."""

import ctypes
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bcaudio.callbacks.watchdog import EXIT_CODE, Watchdog

TIMEOUT_S = 2.0


@dataclass
class Batch:
    step: int
    rank: int

    @property
    def items(self) -> list[Any]:
        return [SimpleNamespace(sample=SimpleNamespace(key=f"clip-{self.step}-{self.rank}"), task="asr")]


class Data(IterableDataset):
    """Ten batches; `fault(step, rank)` runs while a batch is made."""

    def __init__(self, rank: int, fault: Callable[[int], None] = lambda step: None) -> None:
        self.rank, self.fault = rank, fault

    def __iter__(self) -> Any:
        for step in range(10):
            self.fault(step)
            yield Batch(step, self.rank)


class Module(L.LightningModule):
    def __init__(self, fault: Callable[[int], None] = lambda step: None) -> None:
        super().__init__()
        self.model, self.fault = nn.Linear(1, 1), fault

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        time.sleep(0.1)
        self.fault(batch.step)
        return self.model(torch.ones(1, 1)).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, rank: int, in_step: Callable[[int], None] | None = None, in_data: Callable[[int], None] | None = None,
        num_ranks: int = 2, **options: Any) -> None:  # fmt: skip
    def nothing(step: int) -> None:
        pass

    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    watchdog = Watchdog(TIMEOUT_S, 6.0, grace_s=1.0, **options)
    trainer = L.Trainer(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=num_ranks, callbacks=[watchdog],
                        strategy="ddp" if num_ranks > 1 else "auto", use_distributed_sampler=False, **quiet)  # fmt: skip
    data = DataLoader(Data(rank, in_data or nothing), batch_size=None)
    trainer.fit(Module(in_step or nothing), data)


def at(step: int, fault: Callable[[], None]) -> Callable[[int], None]:
    return lambda now: fault() if now == step else None


def sleep() -> None:
    time.sleep(60)


def test_a_rank_that_sleeps_in_a_step_is_named_with_step_and_samples_and_all_ranks_end(tmp_path: Path, run_ranks: Any) -> None:
    ended = run_ranks(lambda rank: fit(tmp_path, rank, in_step=at(3, sleep) if rank == 1 else None))
    assert ended.codes == [EXIT_CODE, EXIT_CODE]
    verdict = json.loads((tmp_path / "watchdog" / "verdict.json").read_text())
    assert verdict["ranks"] == [1]
    assert verdict["reports"]["1"]["keys"] == ["clip-3-1"]
    assert verdict["reports"]["1"]["age_s"] <= TIMEOUT_S
    for error in ended.errors:
        assert "watchdog: rank 1 of 2 stands still for" in error
        assert "forward, step 3" in error
        assert "samples: clip-3-1; waiting for it: rank 0 (backward, step 3" in error
    stacks = [(tmp_path / "watchdog" / f"stack-rank{rank}.txt").read_text() for rank in (0, 1)]
    assert "in sleep" in stacks[1]
    assert "in backward" in stacks[0]
    assert "in sleep" not in stacks[0]


def test_rank_0_asleep_between_batches_is_named_though_it_holds_the_store(tmp_path: Path, run_ranks: Any) -> None:
    ended = run_ranks(lambda rank: fit(tmp_path, rank, in_data=at(4, sleep) if rank == 0 else None, num_ranks=3), 3)
    assert ended.codes == [EXIT_CODE] * 3
    assert all("rank 0 of 3 stands still" in error and "waiting for the next batch, step" in error for error in ended.errors)
    verdict = json.loads((tmp_path / "watchdog" / "verdict.json").read_text())
    assert verdict["ranks"] == [0]


def test_a_rank_whose_process_is_frozen_ends_the_others(tmp_path: Path, run_ranks: Any) -> None:
    def freeze() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)  # its sockets stay open, so no collective of the others fails

    ended = run_ranks(lambda rank: fit(tmp_path, rank, in_step=at(2, freeze) if rank == 1 else None), limit_s=5.0)
    assert ended.codes == [EXIT_CODE, -signal.SIGKILL]
    assert "rank 1 of 2 does not answer for 1." in ended.errors[0]
    assert "samples: clip-2-1" in ended.errors[0]


@pytest.mark.slow
def test_when_rank_0_is_frozen_with_its_store_the_timer_ends_the_others(tmp_path: Path, run_ranks: Any) -> None:
    def freeze() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    ended = run_ranks(lambda rank: fit(tmp_path, rank, in_step=at(2, freeze) if rank == 0 else None), limit_s=6.0)
    assert ended.codes == [-signal.SIGKILL, 1]
    assert "in backward" in (tmp_path / "watchdog" / "stack-rank1.txt").read_text()


def test_a_rank_that_holds_pythons_lock_is_dumped_and_ended_all_the_same(tmp_path: Path, run_ranks: Any) -> None:
    def hold() -> None:
        ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the lock during the call

    ended = run_ranks(lambda rank: fit(tmp_path, rank, in_step=at(3, hold) if rank == 1 else None), limit_s=30.0)
    assert ended.codes == [EXIT_CODE, 1]
    assert "rank 1 of 2 does not answer" in ended.errors[0]
    assert "in hold" in (tmp_path / "watchdog" / "stack-rank1.txt").read_text()


@pytest.mark.parametrize("lingers", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_exception_on_one_rank_ends_the_others_with_its_text(tmp_path: Path, run_ranks: Any, lingers: bool) -> None:
    def fail() -> None:
        raise ValueError("row 7 is broken")

    def rank_fit(rank: int) -> None:
        try:
            fit(tmp_path, rank, in_step=at(5, fail) if rank == 1 else None)
        finally:
            if lingers and rank == 1:  # its sockets stay open: without the watchdog rank 0 would wait for ever
                time.sleep(8)

    ended = run_ranks(rank_fit)
    assert ended.codes == [EXIT_CODE if lingers else 1, 1]
    assert "rank 1 of 2 (forward, step 5" in ended.errors[0]
    assert "raised ValueError: row 7 is broken" in ended.errors[0]


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_run_without_a_fault_ends_well_and_leaves_no_dump(tmp_path: Path, run_ranks: Any, num_ranks: int) -> None:
    ended = run_ranks(lambda rank: fit(tmp_path, rank, num_ranks=num_ranks), num_ranks)
    assert ended.codes == [0] * num_ranks, ended.errors
    assert list((tmp_path / "watchdog").iterdir()) == []


def test_timeouts_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"timeout_s is 60, slow_timeout_s 30"):
        Watchdog(60, 30)
