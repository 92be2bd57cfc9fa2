"""Refine network: resampling to the mel's frame rate and a residual stack of convolutions (specification, section 6, step 5)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.nn.attention import zero_beyond
from bcaudio.nn.resample_conv import MaskedGroupNorm, nearest_resample


class MelRefiner(nn.Module):
    """[convolution, group norm, Mish] per entry of `channels`, a 1x1 convolution back to the mel, plus the input.

    Args:
        num_mels: bins.
        channels: widths of the blocks; the published config lists one entry more, which it never uses.
        kernel_size: of the blocks, odd.
    """

    def __init__(self, num_mels: int = 80, channels: Sequence[int] = (256, 256, 256, 256), kernel_size: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = num_mels
        for channel in channels:
            layers += [nn.Conv1d(width, channel, kernel_size, padding=kernel_size // 2), MaskedGroupNorm(channel), nn.Mish()]
            width = channel
        self.layers = nn.ModuleList([*layers, nn.Conv1d(width, num_mels, 1)])

    def forward(self, x: Tensor, lengths: Tensor, target_lengths: Tensor, per_clip: bool = True) -> tuple[Tensor, Tensor]:
        """Resample and refine.

        Args:
            x: [B, T, num_mels] mel at the decoder's frame rate, zero beyond the lengths.
            lengths: [B] frames of x; the longest clip fills T.
            target_lengths: [B] frames wanted.
            per_clip: resample and normalise each clip over its own length; otherwise over the padded batch, as the published
                code does.

        Returns:
            coarse [B, F, num_mels] (the resampled input) and refined [B, F, num_mels], both zero beyond the target lengths.
        """
        if per_clip:
            coarse = nearest_resample(x, lengths, target_lengths)
        else:
            # float32 as upstream: the source index is a float product
            resampled = F.interpolate(x.float().transpose(1, 2), size=int(target_lengths.max()), mode="nearest")
            coarse = resampled.transpose(1, 2).to(x.dtype)
        y = coarse.transpose(1, 2)
        for layer in self.layers:
            y = layer(y, target_lengths if per_clip else None) if isinstance(layer, MaskedGroupNorm) else layer(y)
        refined = y.transpose(1, 2) + coarse
        return zero_beyond(coarse, target_lengths), zero_beyond(refined, target_lengths)
