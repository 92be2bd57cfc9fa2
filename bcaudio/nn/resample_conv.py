"""Change of frame rate: the gated residual down-sampling before the quantiser, the transposed convolution after it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.attention import zero_beyond


class GatedDownsample(nn.Module):
    """LN(down(SiLU(gate(x)) * up(x)) + r), r = the joined frames themselves (specification, section 5, steps 1 to 4).

    Args:
        dim: width of a frame.
        pooling: frames joined into one; the output is dim * pooling wide.
    """

    def __init__(self, dim: int, pooling: int) -> None:
        super().__init__()
        width = dim * pooling
        self.pooling = pooling
        self.gate_proj = nn.Conv1d(dim, width, pooling, stride=pooling, bias=False)
        self.up_proj = nn.Conv1d(dim, width, pooling, stride=pooling, bias=False)
        self.down_proj = nn.Linear(width, width, bias=False)
        self.layer_norm = nn.LayerNorm(width)

    def downsample(self, x: Tensor) -> Tensor:
        """x [B, T, dim] -> [B, T // pooling, dim * pooling]; an incomplete last group never becomes a token and is left out."""
        batch, time, dim = x.shape
        groups = x[:, : time // self.pooling * self.pooling].reshape(batch, -1, self.pooling, dim)
        # a convolution whose stride is its kernel is one matrix product per group, without copying the weights
        columns = groups.transpose(2, 3).flatten(2)
        gate = F.linear(columns, self.gate_proj.weight.flatten(1))
        up = F.linear(columns, self.up_proj.weight.flatten(1))
        return self.layer_norm(self.down_proj(F.silu(gate) * up) + groups.flatten(2))


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one group whose statistics can be taken over each clip's own length.

    Args:
        num_channels: width.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__(1, num_channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x [B, C, T] -> the same shape; with `lengths` [B] the result is zero beyond them, without them all of T counts."""
        if lengths is None:
            return super().forward(x)
        count = (lengths * x.shape[1]).view(-1, 1, 1)
        valid = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None].float()
        # float32 statistics whatever the input, as torch's own group norm has them
        mean = (x.float() * valid).sum(dim=(1, 2), keepdim=True) / count
        centred = (x.float() - mean) * valid
        scale = (centred.square().sum(dim=(1, 2), keepdim=True) / count + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None] * valid, centred, scale * self.weight[:, None]).to(x.dtype)


class CausalUpsample(nn.Module):
    """Transposed convolution, group norm, then the last max(0, kernel - stride) steps dropped (specification, section 6).

    With a kernel shorter than the stride, the steps between two kernels hold only the bias and the end is cut short: kernel 3 and
    stride 4 turn n frames into 4n - 1.

    Args:
        in_channels, out_channels: widths.
        kernel_size, stride: of the transposed convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        self.kernel_size, self.stride = kernel_size, stride
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, kernel_size, stride=stride)
        self.norm = MaskedGroupNorm(out_channels)

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Frames in -> frames out."""
        return (lengths - 1) * self.stride + min(self.kernel_size, self.stride)

    def forward(self, x: Tensor, lengths: Tensor, per_clip: bool = True) -> tuple[Tensor, Tensor]:
        """Up-sample a padded batch.

        Args:
            x: [B, T, in_channels], zero beyond the lengths.
            lengths: [B] frames, at least 1.
            per_clip: take the norm's statistics over each clip; otherwise over the padded batch, as the published code does.

        Returns:
            [B, T', out_channels], zero beyond the lengths, and lengths [B].
        """
        full = (lengths - 1) * self.stride + self.kernel_size
        y = self.conv(x.transpose(1, 2))
        y = self.norm(y, full if per_clip else None)
        lengths = self.output_lengths(lengths)
        dropped = max(0, self.kernel_size - self.stride)
        y = y[..., : y.shape[-1] - dropped].transpose(1, 2)
        return zero_beyond(y, lengths), lengths


def nearest_resample(x: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """Nearest-neighbour resampling in time, each clip from its own length to its own target length.

    Output frame j of a clip is its input frame floor(j * (length / target)), in float32 as torch's `interpolate` has it.

    Args:
        x: [B, T, C].
        lengths, target_lengths: [B] frames.

    Returns:
        [B, max(target_lengths), C], zero beyond the target lengths.
    """
    num_frames = int(target_lengths.max())
    scale = lengths.float() / target_lengths.clamp(min=1).float()
    steps = torch.arange(num_frames, device=x.device, dtype=torch.float32)
    source = torch.minimum((steps * scale[:, None]).floor().long(), lengths[:, None] - 1)
    resampled = x.gather(1, source[..., None].expand(-1, -1, x.shape[2]))
    return zero_beyond(resampled, target_lengths)
