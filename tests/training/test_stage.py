"""What every stage shares: randomness from (seed, step), the place to go on from, names in the log."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule, step_seed


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


def test_random_numbers_differ_between_ranks_and_micro_batches_and_rank_0_keeps_those_of_one_process() -> None:
    assert step_seed(2, 5, 0, 0) == 2 * 1_000_003 + 5
    seeds = {step_seed(2, step, micro, rank) for step in range(8) for micro in range(8) for rank in range(8)}
    assert len(seeds) == 8**3


def test_next_step_is_the_one_after_the_batch_and_survives_a_checkpoint() -> None:
    cut_off, resumed = stage(), stage()
    cut_off.on_train_batch_start(SimpleNamespace(step=6), batch_idx=0)
    assert cut_off.next_step == 7
    checkpoint: dict[str, Any] = {}
    cut_off.on_save_checkpoint(checkpoint)
    assert checkpoint == {"next_step": 7}
    resumed.trainer = SimpleNamespace(datamodule=SimpleNamespace(first_step=0), accumulate_grad_batches=1)
    resumed.on_load_checkpoint(checkpoint)
    assert (resumed.next_step, resumed.trainer.datamodule.first_step) == (7, 7)


def test_a_step_is_done_with_its_last_micro_batch() -> None:
    module = stage()
    for micro, expected in ((0, 6), (1, 6), (2, 7)):
        module.on_train_batch_start(SimpleNamespace(step=6, micro=micro, num_micro=3), batch_idx=0)
        assert module.next_step == expected


def test_batches_are_counted_anew_for_another_number_of_micro_batches() -> None:
    counts = {"ready": 7, "started": 7, "processed": 7, "completed": 6}
    loop = {"epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts), "is_last_batch": False}}
    loop["epoch_loop.state_dict"] = {"_batches_that_stepped": 6}
    module = stage()
    module.trainer = SimpleNamespace(datamodule=SimpleNamespace(first_step=0), accumulate_grad_batches=3)
    module.on_load_checkpoint({"next_step": 7, "loops": {"fit_loop": loop}})
    expected = {"ready": 21, "started": 21, "processed": 21, "completed": 20}
    assert loop["epoch_loop.batch_progress"] == {"total": expected, "current": expected, "is_last_batch": False}
    assert loop["epoch_loop.state_dict"] == {"_batches_that_stepped": 6}


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
