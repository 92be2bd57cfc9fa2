"""The refine network: names, residual form, independence of the batch."""

import torch

from bcaudio.nn.mel_refiner import MelRefiner


def tiny() -> MelRefiner:
    torch.manual_seed(0)
    return MelRefiner(num_mels=3, channels=[4, 5], kernel_size=5).eval()


def test_parameters_have_the_published_places() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tiny().state_dict().items() if name.endswith("weight")}
    assert shapes == {
        "layers.0.weight": (4, 3, 5),
        "layers.1.weight": (4,),
        "layers.3.weight": (5, 4, 5),
        "layers.4.weight": (5,),
        "layers.6.weight": (3, 5, 1),
    }


@torch.no_grad()
def test_refined_is_coarse_when_the_last_layer_is_zero() -> None:
    refiner = tiny()
    refiner.layers[-1].weight.zero_()
    refiner.layers[-1].bias.zero_()
    coarse, refined = refiner(torch.randn(1, 16, 3), torch.tensor([16]), torch.tensor([10]))
    assert coarse.shape == (1, 10, 3)
    assert torch.equal(coarse, refined)


@torch.no_grad()
def test_a_clip_does_not_depend_on_its_batch() -> None:
    refiner = tiny()
    x = torch.randn(2, 30, 3)
    x[1, 14:] = 0.0
    lengths, targets = torch.tensor([30, 14]), torch.tensor([18, 8])
    coarse, refined = refiner(x, lengths, targets)
    coarse_alone, refined_alone = refiner(x[1:, :14], lengths[1:], targets[1:])
    torch.testing.assert_close(coarse[1, :8], coarse_alone[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(refined[1, :8], refined_alone[0], atol=1e-5, rtol=0)
    assert refined[1, 8:].count_nonzero() == 0
    _, upstream = refiner(x, lengths, targets, per_clip=False)
    assert (upstream[1, :8] - refined_alone[0]).abs().max() > 1e-2
