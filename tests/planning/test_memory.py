"""State of a rank by ZeRO stage: worked out by hand, and against what engines hold."""

import sys
from pathlib import Path

import pytest

from bcaudio.planning.memory import ParameterSize, Sharding, communication_bytes, state_bytes

sys.path.insert(0, str(Path(__file__).parent))

# a trained matrix, a trained vector (a group of its own), a frozen matrix
SIZES = [ParameterSize(1000, True, 0), ParameterSize(10, True, 1), ParameterSize(500, False, 0)]


def test_ddp_holds_everything_in_fp32_on_every_rank() -> None:
    state = state_bytes(SIZES, Sharding(0, world_size=4))
    assert (state.weights, state.gradients, state.optimizer) == (4 * 1510, 4 * 1010, 8 * 1010)
    assert communication_bytes(SIZES, Sharding(0, world_size=4)) == 4 * 1010
    assert communication_bytes(SIZES, Sharding(0, world_size=1)) == 0


def test_zero_2_pads_each_group_and_keeps_whole_gradients_of_what_its_piece_touches() -> None:
    # pieces of 4 ranks: ceil(1000 / 8) * 8 / 4 = 250 and ceil(10 / 8) * 8 / 4 = 4
    state = state_bytes(SIZES, Sharding(2, world_size=4))
    assert state.weights == 2 * (4 * 254 + 500)
    # the third rank: all of the matrix, all of the vector (8..9 lie in its piece) and 2 of padding
    assert state.gradients == 2 * (1000 + 10 + 2)
    assert state.optimizer == 12 * 254


def test_zero_1_differs_from_zero_2_by_the_gradients_it_keeps_until_they_are_reduced() -> None:
    one, two = (communication_bytes(SIZES, Sharding(stage, 4, bucket_elements=100)) for stage in (1, 2))
    assert (one, two) == (2 * 2 * 100 + 2 * 1010, 2 * 2 * 100)
    assert state_bytes(SIZES, Sharding(1, 4)) == state_bytes(SIZES, Sharding(2, 4))


def test_zero_3_shards_frozen_weights_too_and_keeps_small_ones_whole() -> None:
    state = state_bytes(SIZES, Sharding(3, world_size=4, persistent_elements=100))
    assert state.weights == 2 * (250 + 3 + 125) + 2 * 10
    assert state.gradients == 2 * 253
    assert state.optimizer == 12 * 253


def test_offloading_moves_state_to_the_host() -> None:
    sharding = Sharding(3, 4, offload_optimizer=True, offload_parameters=True, persistent_elements=100)
    state = state_bytes(SIZES, sharding)
    assert (state.weights, state.gradients, state.optimizer) == (2 * 10, 0, 0)
    assert state.host == 2 * 378 + 12 * 253 + 4 * 253


def test_an_unknown_stage_is_refused() -> None:
    with pytest.raises(ValueError, match="ZeRO stage is 4; use 0"):
        state_bytes(SIZES, Sharding(4, 2))


@pytest.mark.slow
def test_predicted_state_is_within_2_percent_of_what_engines_hold() -> None:
    pytest.importorskip("deepspeed")
    pytest.importorskip("peft")
    from accuracy import states

    found = states()
    assert len(found) == 24  # stage 1, stage 2, LoRA x ZeRO 0-3 x fp32, bf16
    for variant, stage, bf16, predicted, measured in found:
        for kind in ("weights", "gradients", "optimizer"):
            assert getattr(predicted, kind) == pytest.approx(measured[kind], rel=0.02), (variant, stage, bf16, kind)
