"""Two ranks that do not fit the run or each other refuse it alike, before the first step."""

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcaudio.callbacks.preflight import Preflight


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise AssertionError("no step may be taken")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_two_ranks_refuse_alike_before_the_first_step(tmp_path: Path, run_ranks: Any) -> None:
    def rank_fit(rank: int) -> None:
        callback = Preflight(same={"recipe": f"hash-{rank}"}, keep=10**15, clock_offset_s=30.0 * rank)
        trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=2, strategy="ddp",
                            callbacks=[callback], logger=False, enable_checkpointing=False)  # fmt: skip
        trainer.fit(Module(), DataLoader([0]))

    ended = run_ranks(rank_fit, limit_s=30.0)
    assert ended.codes == [1, 1]
    for error in ended.errors:
        assert "preflight: 3 problems before the first step" in error
        assert "rank 1 (" in error
        assert "recipe is hash-1, but hash-0 on 1 of 2" in error
        assert "the clock is +30.0 s off" in error
        assert "rank 0 (" in error
        assert "checkpoints need" in error


def test_a_sound_pair_of_ranks_starts(tmp_path: Path, run_ranks: Any) -> None:
    def rank_fit(rank: int) -> None:
        trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=1, accelerator="cpu", devices=2, strategy="ddp",
                            callbacks=[Preflight()], logger=False, enable_checkpointing=False)  # fmt: skip
        trainer.fit(Module(), DataLoader([0]))

    ended = run_ranks(rank_fit, limit_s=30.0)
    assert all("no step may be taken" in error for error in ended.errors)  # it came as far as the first step
