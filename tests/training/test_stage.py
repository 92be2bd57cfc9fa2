"""What every stage shares: randomness from (seed, step), the place to go on from, names in the log."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule


def stage(seed: int = 0) -> StageModule:
    return StageModule(nn.Linear(2, 2), AdamWCosine(1e-3, max_steps=10), seed=seed)


def draws(seed: int, step: int) -> Tensor:
    torch.rand(step + 3)  # whatever was drawn before does not matter
    stage(seed).on_train_batch_start(SimpleNamespace(step=step), batch_idx=99)
    return torch.rand(4)


def test_random_numbers_of_a_step_follow_from_seed_and_step_alone() -> None:
    assert torch.equal(draws(3, 7), draws(3, 7))
    others = [draws(3, 7), draws(3, 8), draws(4, 7), draws(4, 6)]
    assert len({tuple(other.tolist()) for other in others}) == 4


def test_next_step_is_the_one_after_the_batch_and_survives_a_checkpoint() -> None:
    cut_off, resumed = stage(), stage()
    cut_off.on_train_batch_start(SimpleNamespace(step=6), batch_idx=0)
    assert cut_off.next_step == 7
    checkpoint: dict[str, Any] = {}
    cut_off.on_save_checkpoint(checkpoint)
    assert checkpoint == {"next_step": 7}
    resumed.trainer = SimpleNamespace(datamodule=SimpleNamespace(first_step=0))
    resumed.on_load_checkpoint(checkpoint)
    assert (resumed.next_step, resumed.trainer.datamodule.first_step) == (7, 7)


@pytest.mark.parametrize(("split", "over_all_batches"), [("train", False), ("val", True)])
def test_terms_are_logged_under_their_split_and_validation_over_all_batches(split: str, over_all_batches: bool) -> None:
    module, logged = stage(), []
    module.log_dict = lambda values, **how: logged.append((values, how))
    module.log_terms(split, {"loss": torch.ones((), requires_grad=True) * 2}, batch_size=5)
    ((values, how),) = logged
    assert {name: float(value) for name, value in values.items()} == {f"{split}/loss": 2.0}
    assert not values[f"{split}/loss"].requires_grad
    assert how == {
        "batch_size": 5, "on_step": not over_all_batches, "on_epoch": over_all_batches, "sync_dist": over_all_batches,
    }  # fmt: skip
