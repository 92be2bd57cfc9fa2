import math

import numpy as np
import pytest
import torch

from bcaudio.metrics.mel_distance import MelDistance


def test_padding_is_left_out_and_every_frame_weighs_the_same() -> None:
    prediction, target = torch.zeros(2, 2, 3), torch.zeros(2, 2, 3)
    target[0] = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])  # 3 frames, sum 12
    target[1] = torch.tensor([[4.0, 99.0, 99.0], [-4.0, 99.0, 99.0]])  # 1 frame, sum 8
    metric = MelDistance()
    metric.update(prediction, target, torch.tensor([3, 1]))
    assert metric.report() == {"mel_mae": 20 / 8, "absolute_error": 20.0, "values": 8, "frames": 4}


def test_two_halves_give_the_joint_result_and_sums_can_be_added() -> None:
    first, second, joint = MelDistance(), MelDistance(), MelDistance()
    first.update(torch.zeros(1, 4, 2), torch.ones(1, 4, 2), torch.tensor([2]))
    second.add(error=6.0, num_frames=1, num_mels=4)
    joint.add(8.0, 2, 4)
    joint.add(6.0, 1, 4)
    first.merge_state(second)
    assert first.report() == joint.report() == {"mel_mae": 14 / 12, "absolute_error": 14.0, "values": 12, "frames": 3}


def test_shapes_and_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="n_mels"):
        MelDistance().update(torch.zeros(1, 4, 2), torch.zeros(1, 4, 3), torch.tensor([2]))
    with pytest.raises(ValueError, match="5 frames"):
        MelDistance().update(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), torch.tensor([5]))
    with pytest.raises(ValueError, match="no frame"):
        MelDistance().report()


def clip(kind: str) -> MelDistance:
    """Two frames of two bins that differ by (3, 4) and (0, 2), and a frame of padding."""
    difference = torch.tensor([[[3.0, 0.0, 99.0], [-4.0, 2.0, 99.0]]])
    metric = MelDistance(kind)
    metric.update(difference, torch.zeros(1, 2, 3), torch.tensor([2]), ["clip"])
    return metric


def test_each_kind_by_hand() -> None:
    assert clip("l1").report() == {"mel_mae": 9 / 4, "absolute_error": 9.0, "values": 4, "frames": 2}
    # squares 9, 16, 0 and 4
    assert clip("l2").report() == {"mel_rmse": math.sqrt(29 / 4), "squared_error": 29.0, "values": 4, "frames": 2}
    # the frames' distances are sqrt(25 / 2) and sqrt(4 / 2)
    report = clip("lsd").report()
    assert report["log_spectral_distance"] == pytest.approx((math.sqrt(12.5) + math.sqrt(2)) / 2, abs=1e-9)
    assert clip("lsd").ids == ["clip"]
    with pytest.raises(ValueError, match="kind is 'l3'"):
        MelDistance("l3")  # type: ignore[arg-type]


def test_rows_are_of_clips_and_do_not_depend_on_the_batch_they_came_in() -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 80, 90, generator=generator), torch.randn(2, 80, 90, generator=generator)
    together, alone = MelDistance(), MelDistance()
    together.update(prediction, target, torch.tensor([90, 37]), ["a", "b"])
    alone.update(prediction[1:, :, :37], target[1:, :, :37], torch.tensor([37]), ["b"])
    assert np.array_equal(together.rows[1:], alone.rows)
    assert together.rows[1].tolist()[1:] == [37 * 80, 37]


def test_a_clip_that_is_not_a_number_is_refused_by_its_id() -> None:
    with pytest.raises(ValueError, match="error of b is nan"):
        MelDistance().update(torch.full((1, 2, 3), math.nan), torch.zeros(1, 2, 3), torch.tensor([2]), ["b"])
