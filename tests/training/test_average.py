from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bcaudio.training.average import EMA


def test_the_average_follows_by_hand_counts_steps_not_micro_batches_and_ends_as_the_weights() -> None:
    model = nn.ModuleDict({"a": nn.Linear(1, 1, bias=False), "frozen": nn.Linear(1, 1).requires_grad_(False)})
    model["a"].weight.data.fill_(8.0)
    before = model["frozen"].weight.clone()
    average = EMA(decay=0.5)
    average.on_train_start(None, model)
    for value in (4.0, 2.0):
        model["a"].weight.data.fill_(value)
        for micro in range(2):
            average.on_train_batch_end(None, model, None, SimpleNamespace(micro=micro, num_micro=2), 0)
    assert average.averages["a.weight"].item() == 4.0  # (8 + 4) / 2 = 6, (6 + 2) / 2 = 4
    resumed = EMA(decay=0.5)
    resumed.load_state_dict(average.state_dict())
    resumed.on_train_start(None, model)
    resumed.on_train_end(None, model)
    assert model["a"].weight.item() == 4.0
    assert torch.equal(model["frozen"].weight, before)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_senseless_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is"):
        EMA(decay)


def test_weights_in_pieces_are_refused() -> None:
    model = nn.Linear(1, 1)
    model.weight.ds_id = 0
    with pytest.raises(ValueError, match="under ZeRO or FSDP lie in pieces"):
        EMA().on_train_start(None, model)
