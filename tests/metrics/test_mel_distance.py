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
    second.add(absolute_error=6.0, num_frames=1, num_mels=4)
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
