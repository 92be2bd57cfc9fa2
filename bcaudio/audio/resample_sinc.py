"""Windowed-sinc resampling with the numbers of the released model's front end (specification, section 3.1)."""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

LOWPASS_FILTER_WIDTH = 128
ROLLOFF = 0.99


def resampled_length(num_samples: int, orig_rate: int, new_rate: int) -> int:
    """Samples after resampling: ceil(num_samples * new_rate / orig_rate), in exact integers."""
    return -(-num_samples * new_rate // orig_rate)


def resample_sinc(
    waveform: Tensor, orig_rate: int, new_rate: int, lowpass_filter_width: int = LOWPASS_FILTER_WIDTH, rolloff: float = ROLLOFF
) -> Tensor:
    """Change the sample rate by a Hann-windowed sinc, one filter per output phase.

    Args:
        waveform: [..., N] float; what lies outside is taken as zero, so zero-padding a clip changes nothing.
        orig_rate, new_rate: Hz.
        lowpass_filter_width: zero crossings kept on each side.
        rolloff: cut-off as a share of the lower Nyquist frequency.

    Returns:
        [..., ceil(N * new_rate / orig_rate)] in the dtype of the input.

    Raises:
        ValueError: a rate is not a positive number of Hz.
    """
    if orig_rate <= 0 or new_rate <= 0:
        raise ValueError(f"resample_sinc: rates must be positive Hz, got {orig_rate} -> {new_rate}; check the file's header")
    if orig_rate == new_rate:
        return waveform
    divisor = math.gcd(orig_rate, new_rate)
    stride, phases = orig_rate // divisor, new_rate // divisor
    kernel, width = _kernel(stride, phases, lowpass_filter_width, rolloff)
    flat = F.pad(waveform.reshape(-1, 1, waveform.shape[-1]), (width, width + stride))
    filtered = F.conv1d(flat, kernel.to(flat), stride=stride)
    interleaved = filtered.transpose(1, 2).reshape(*waveform.shape[:-1], -1)
    return interleaved[..., : resampled_length(waveform.shape[-1], orig_rate, new_rate)]


@lru_cache(maxsize=16)
def _kernel(stride: int, phases: int, lowpass_filter_width: int, rolloff: float) -> tuple[Tensor, int]:
    """Filters [phases, 1, 2 * width + stride] for reduced rates stride -> phases; computed in float64, kept in float32."""
    base = min(stride, phases) * rolloff
    width = math.ceil(lowpass_filter_width * stride / base)
    taps = torch.arange(-width, width + stride, dtype=torch.float64) / stride
    offsets = torch.arange(phases, dtype=torch.float64) / phases
    time = (base * (taps[None, :] - offsets[:, None])).clamp(-lowpass_filter_width, lowpass_filter_width)
    window = torch.cos(math.pi * time / (2 * lowpass_filter_width)).square()
    return (torch.sinc(time) * window * base / stride).float()[:, None], width
