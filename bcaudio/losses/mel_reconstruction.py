"""Mel reconstruction of the audio tokenizer (arXiv 2502.17239, eq. 1), at one or at several time scales."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def mel_reconstruction(coarse: Tensor, refined: Tensor, target: Tensor, lengths: Tensor) -> Tensor:
    """L1(gt, coarse) + L1(gt, refined) + L2(gt, coarse) + L2(gt, refined), means over the real frames and the bins.

    Args:
        coarse, refined: [B, F, n_mels] log-mel.
        target: [B, F', n_mels], F' >= F; frames beyond F are left out.
        lengths: [B] real frames, at most F.

    Returns:
        A scalar.

    Raises:
        ValueError: the target is shorter than the prediction or has other bins.
    """
    frames = coarse.shape[1]
    if target.shape[1] < frames or target.shape[2] != coarse.shape[2]:
        raise ValueError(
            f"mel_reconstruction: the target {tuple(target.shape)} does not cover the prediction {tuple(coarse.shape)}, both "
            "[B, F, n_mels]; transpose [B, n_mels, F] features, or pass their lengths to the tokenizer as mel_lengths"
        )
    mask = (torch.arange(frames, device=coarse.device) < lengths[:, None])[..., None]
    count = (mask.sum() * coarse.shape[2]).clamp(min=1)
    total = coarse.new_zeros(())
    for predicted in (coarse, refined):
        difference = (predicted - target[:, :frames]).masked_fill(~mask, 0.0)
        total = total + (difference.abs().sum() + difference.square().sum()) / count
    return total


class MultiScaleMelReconstruction:
    """Eq. 1 at several hop and window sizes, averaged over the scales.

    The decoder writes one mel. For a scale whose hop is r times its own, the prediction is averaged around every r-th frame and
    compared with a target taken from the sound with that hop and a longer window; the paper gives no sizes.

    Args:
        hop_ratios: per scale, the target's hop over the decoder's; 1 is the decoder's own.
    """

    def __init__(self, hop_ratios: Sequence[int] = (1, 2)) -> None:
        if not hop_ratios or min(hop_ratios) < 1:
            raise ValueError(f"MultiScaleMelReconstruction: hop_ratios {list(hop_ratios)} must be whole numbers from 1 on")
        self.hop_ratios = tuple(hop_ratios)

    def __call__(self, coarse: Tensor, refined: Tensor, targets: Sequence[Tensor], lengths: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            coarse, refined: [B, F, n_mels].
            targets: one [B, F_r, n_mels] per hop ratio, centred frames.
            lengths: [B] real frames of coarse and refined.

        Raises:
            ValueError: the number of targets is not the number of ratios, or a target is too short.
        """
        if len(targets) != len(self.hop_ratios):
            raise ValueError(f"MultiScaleMelReconstruction: {len(targets)} targets for the hop ratios {list(self.hop_ratios)}")
        losses = [
            mel_reconstruction(pool_frames(coarse, lengths, r), pool_frames(refined, lengths, r), target, (lengths - 1) // r + 1)
            for r, target in zip(self.hop_ratios, targets, strict=True)
        ]
        return torch.stack(losses).mean()


def pool_frames(mel: Tensor, lengths: Tensor, ratio: int) -> Tensor:
    """Mean of the real frames within ratio // 2 of every `ratio`-th: [B, F, n_mels] -> [B, (F - 1) // ratio + 1, n_mels]."""
    if ratio == 1:
        return mel
    mask = (torch.arange(mel.shape[1], device=mel.device) < lengths[:, None])[:, None].to(mel.dtype)
    window = {"kernel_size": 2 * (ratio // 2) + 1, "stride": ratio, "padding": ratio // 2}
    weight = F.avg_pool1d(mask, **window)
    return (F.avg_pool1d(mel.transpose(1, 2) * mask, **window) / weight.clamp(min=1e-6)).transpose(1, 2)
