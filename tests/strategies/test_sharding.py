"""What is written of a model without any strategy: its state, in the dtypes asked for, with the hash of the plain functions."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bcaudio.checkpoint import load_state, tensor_sha256
from bcaudio.strategies.deepspeed import ZeRO
from bcaudio.strategies.export import write_weights
from bcaudio.strategies.sharding import sha256_of, whole_tensors


def model() -> nn.Module:
    made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(2, 3)).to(torch.bfloat16)
    made[2].weight = made[0].weight  # tied
    return made


def test_hash_and_file_are_those_of_the_plain_functions(tmp_path: Path) -> None:
    made = model()
    tensors = whole_tensors(made)
    digest = write_weights(tmp_path, tensors)
    assert digest == sha256_of(tensors) == tensor_sha256(made.state_dict())
    state = load_state(tmp_path)
    assert state.keys() == made.state_dict().keys()
    assert all(
        torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype for name, tensor in made.state_dict().items()
    )
    assert not list(tmp_path.glob(".*"))


def test_dtypes_asked_for_are_delivered(tmp_path: Path) -> None:
    made = model()
    write_weights(tmp_path, whole_tensors(made, {"0.weight": torch.float32}))
    state = load_state(tmp_path)
    assert (state["0.weight"].dtype, state["2.weight"].dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(state["0.weight"], made[0].weight.float())


def test_a_rank_that_does_not_write_makes_every_tensor_once_in_the_same_order(tmp_path: Path) -> None:
    made: list[str] = []
    tensors = whole_tensors(model())
    for name, tensor in tensors.items():
        object.__setattr__(tensor, "make", lambda name=name, make=tensor.make: (made.append(name), make())[1])
    assert write_weights(tmp_path / "x", tensors, writes=False) == ""
    helped = made.copy()
    made.clear()
    write_weights(tmp_path / "x", tensors)
    assert helped == made == sorted(tensors)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"stage": 1}, "stage is 1; use 2 or 3"), ({"stage": 2, "offload_parameters": True}, "needs stage 3, but stage is 2")],
)
def test_what_zero_does_not_do_is_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZeRO(**options)
