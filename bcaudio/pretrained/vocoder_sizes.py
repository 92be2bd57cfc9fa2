"""The sizes of a HiFT vocoder, read from the shapes of its tensors: hift.pt comes without a configuration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from bcaudio.pretrained.names import Shaped
from bcaudio.pretrained.nodes import Node

# what shapes cannot tell, as published: samples per frame, hop of the inverse STFT, dilations of a residual block
SAMPLES_PER_FRAME, ISTFT_HOP, DILATIONS = 480, 4, (1, 3, 5)


def vocoder_of_shapes(state: Mapping[str, Shaped], where: str) -> Node:
    """Model node of a `Vocoder` for these tensors (our names).

    Raises:
        ValueError: tensors that every HiFT has are absent, or of shapes that no HiFT has.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise ValueError(f"{where}: has no {name}; this is no HiFT vocoder")
        return tuple(state[name].shape)

    def count(pattern: str) -> int:
        number = 0
        while pattern.format(number) in state:
            number += 1
        return number

    try:
        base, mels, _ = shape("conv_pre.weight_v")
        levels = count("ups.{}.weight_v")
        kernels = count("resblocks.{}.convs1.0.weight_v") // max(levels, 1)
        # a source branch is brought down by the product of all later rates; its kernel is twice that, or 1
        widths = [shape(f"source_downs.{i}.weight")[2] for i in range(levels)]
        steps = [max(1, width // 2) for width in widths]
        rates = [before // after for before, after in itertools.pairwise(steps)]
        rates.insert(0, SAMPLES_PER_FRAME // ISTFT_HOP // math.prod(rates))
        blocks = [f"resblocks.{i}" for i in range(kernels)]
        sources = [f"source_resblocks.{i}" for i in range(levels)]
        return {
            "_target_": "bcaudio.models.vocoder.Vocoder",
            "mel_bins": mels,
            "base_channels": base,
            "num_harmonics": shape("m_source.l_linear.weight")[1] - 1,
            "upsample_rates": rates,
            "upsample_kernel_sizes": [shape(f"ups.{i}.weight_v")[2] for i in range(levels)],
            "istft_n_fft": shape("conv_post.weight_v")[0] - 2,
            "istft_hop": ISTFT_HOP,
            "resblock_kernel_sizes": [shape(f"{block}.convs1.0.weight_v")[2] for block in blocks],
            "resblock_dilations": [list(DILATIONS[: count(f"{block}.convs1.{{}}.weight_v")]) for block in blocks],
            "source_resblock_kernel_sizes": [shape(f"{block}.convs1.0.weight_v")[2] for block in sources],
            "source_resblock_dilations": [list(DILATIONS[: count(f"{block}.convs1.{{}}.weight_v")]) for block in sources],
            "f0_channels": shape("f0_predictor.classifier.weight")[1],
        }
    except (IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{where}: tensors of shapes that no HiFT vocoder has ({error}); give CosyVoice 2's hift.pt") from None
