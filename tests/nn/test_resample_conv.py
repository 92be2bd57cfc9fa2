"""Change of frame rate: lengths, norms and nearest resampling by hand or against torch on single clips."""

import pytest
import torch
import torch.nn.functional as F

from bcaudio.nn.resample_conv import CausalUpsample, GatedDownsample, MaskedGroupNorm, nearest_resample


@torch.no_grad()
def test_gated_downsample_is_the_convolutions_it_stores() -> None:
    torch.manual_seed(0)
    block = GatedDownsample(dim=3, pooling=4)
    x = torch.randn(2, 11, 3)
    grouped = x[:, :8].reshape(2, 2, 12)
    gate, up = block.gate_proj(x.transpose(1, 2)), block.up_proj(x.transpose(1, 2))
    expected = block.layer_norm(block.down_proj((F.silu(gate) * up).transpose(1, 2)) + grouped)
    torch.testing.assert_close(block.downsample(x), expected, atol=1e-5, rtol=0)


def test_masked_group_norm_equals_the_norm_of_each_clip_alone() -> None:
    torch.manual_seed(0)
    norm = MaskedGroupNorm(3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 8)
    masked = norm(x, torch.tensor([8, 5]))
    torch.testing.assert_close(masked[0], F.group_norm(x[:1], 1, norm.weight, norm.bias)[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(masked[1, :, :5], F.group_norm(x[1:, :, :5], 1, norm.weight, norm.bias)[0], atol=1e-5, rtol=0)
    assert masked[1, :, 5:].count_nonzero() == 0


def test_kernel_shorter_than_stride_leaves_every_fourth_frame_to_the_bias() -> None:
    block = CausalUpsample(1, 1, kernel_size=3, stride=4)
    block.conv.weight.data.fill_(1.0)
    block.conv.bias.data.zero_()
    frames, lengths = block(torch.tensor([[[1.0], [3.0]]]), torch.tensor([2]))
    # 1 1 1 0 3 3 3: mean 12 / 7, mean square 30 / 7
    raw = torch.tensor([1.0, 1, 1, 0, 3, 3, 3])
    assert lengths.tolist() == [7]
    torch.testing.assert_close(frames[0, :, 0], (raw - 12 / 7) / (30 / 7 - (12 / 7) ** 2 + 1e-5) ** 0.5)


@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 4), (3, 2), (2, 2)])
@torch.no_grad()
def test_upsampling_a_clip_does_not_depend_on_its_batch(kernel_size: int, stride: int) -> None:
    torch.manual_seed(0)
    block = CausalUpsample(4, 3, kernel_size, stride)
    x = torch.randn(2, 9, 4)
    x[1, 5:] = 0.0
    together, lengths = block(x, torch.tensor([9, 5]))
    alone, alone_lengths = block(x[1:, :5], torch.tensor([5]))
    assert lengths[1] == alone_lengths[0] == 4 * stride + min(kernel_size, stride)
    torch.testing.assert_close(together[1, : lengths[1]], alone[0], atol=1e-5, rtol=0)
    assert together[1, lengths[1] :].count_nonzero() == 0
    upstream, _ = block(x, torch.tensor([9, 5]), per_clip=False)
    assert (upstream[1, : lengths[1]] - alone[0]).abs().max() > 1e-2


def test_nearest_resample_equals_interpolate_on_each_clip() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 214, 2)
    lengths, targets = torch.tensor([214, 62, 7]), torch.tensor([133, 38, 9])
    resampled = nearest_resample(x, lengths, targets)
    assert resampled.shape == (3, 133, 2)
    for clip, (length, target) in enumerate(zip(lengths.tolist(), targets.tolist(), strict=True)):
        expected = F.interpolate(x[clip : clip + 1, :length].transpose(1, 2), size=target, mode="nearest")
        torch.testing.assert_close(resampled[clip, :target], expected[0].T, atol=0, rtol=0)
        assert resampled[clip, target:].count_nonzero() == 0
