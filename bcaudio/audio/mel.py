"""Log-mel features, batched and exact per clip: padding a clip inside a batch never changes its features.

All classes are called as `mel, mel_lengths = features(waveform [B, N], lengths [B])`; columns beyond `mel_lengths` are 0.0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def slaney_mel_filters(sample_rate: int, n_fft: int, n_mels: int, fmin: float = 0.0, fmax: float | None = None) -> Tensor:
    """Triangular filters on Slaney's mel scale, each of area 2 / bandwidth.

    Slaney (Auditory Toolbox, 1998): linear below 1 kHz (200/3 Hz per mel), logarithmic above (27 mels per factor 6.4).

    Args:
        sample_rate, fmin, fmax: Hz; `fmax` is half the sample rate unless given.
        n_fft: window of the spectrum, samples.
        n_mels: number of filters.

    Returns:
        [n_fft // 2 + 1, n_mels] float32 (computed in float64).

    Raises:
        ValueError: the band is empty or reaches beyond half the sample rate.
    """
    top = sample_rate / 2 if fmax is None else fmax
    if not 0 <= fmin < top <= sample_rate / 2:
        raise ValueError(
            f"mel filters: need 0 <= fmin < fmax <= {sample_rate / 2:g} Hz, got fmin {fmin:g} and fmax {top:g}; lower fmax"
        )
    step, corner, log_step = 200.0 / 3, 1000.0, math.log(6.4) / 27

    def to_mel(hertz: float) -> float:
        return hertz / step if hertz < corner else corner / step + math.log(hertz / corner) / log_step

    mels = torch.linspace(to_mel(fmin), to_mel(top), n_mels + 2, dtype=torch.float64)
    edges = torch.where(mels < corner / step, mels * step, corner * torch.exp(log_step * (mels - corner / step)))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)[:, None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    return (triangles * 2 / (high - low)).float()


class _Mel(nn.Module):
    """What every mel shares: window, filters and the power spectrum."""

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int, fmin: float, fmax: float | None) -> None:
        super().__init__()
        self.sample_rate, self.n_fft, self.hop_length, self.n_mels = sample_rate, n_fft, hop_length, n_mels
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("filters", slaney_mel_filters(sample_rate, n_fft, n_mels, fmin, fmax), persistent=False)

    @property
    def frame_rate(self) -> float:
        """Columns per second."""
        return self.sample_rate / self.hop_length

    def _power(self, padded: Tensor) -> Tensor:
        """[B, W] -> |STFT|^2 [B, 1 + (W - n_fft) // hop, n_fft // 2 + 1]; the padding is the caller's."""
        frames = padded.unfold(1, self.n_fft, self.hop_length) * self.window
        spectrum = torch.view_as_real(torch.fft.rfft(frames))
        return spectrum.square().sum(-1)

    def _check(self, waveform: Tensor, lengths: Tensor, shortest: int) -> None:
        name = type(self).__name__
        if waveform.dim() != 2 or lengths.shape != waveform.shape[:1]:
            raise ValueError(
                f"{name}: waveform must be [batch, samples] and lengths [batch], got {tuple(waveform.shape)} and "
                f"{tuple(lengths.shape)}; a single clip is waveform[None]"
            )
        low, high = (int(length) for length in lengths.aminmax())
        if low < shortest or high > waveform.shape[1]:
            raise ValueError(
                f"{name}: lengths run from {low} to {high} samples, but must lie between {shortest} and the "
                f"{waveform.shape[1]} of the batch; drop or pad clips that are too short"
            )


def _zero_beyond(x: Tensor, lengths: Tensor) -> Tensor:
    """[B, ..., T]: 0.0 from each clip's length on."""
    valid = torch.arange(x.shape[-1], device=x.device) < lengths[:, None]
    return x.masked_fill(~valid.view(x.shape[0], *[1] * (x.dim() - 2), -1), 0.0)


class WhisperLogMel(_Mel):
    """Whisper's log-mel with the lengths of the released model (specification, sections 3.3 and 3.4).

    A clip is treated as if it were padded with zeros to `max_audio_s` (or cut to it), but only its own frames are computed: the
    frames of pure padding would all be 1e-10, which is below any other value and so leaves the maximum alone.

    Args:
        n_mels: bins (128 in the released model), 0 Hz to half the sample rate.
        sample_rate: Hz.
        n_fft, hop_length: samples.
        max_audio_s: the longest clip, seconds.
    """

    def __init__(
        self, n_mels: int = 128, sample_rate: int = 16000, n_fft: int = 400, hop_length: int = 160, max_audio_s: float = 30.0
    ) -> None:
        super().__init__(sample_rate, n_fft, hop_length, n_mels, 0.0, None)
        self.max_samples = int(sample_rate * max_audio_s)
        self.max_audio_s = max_audio_s

    def frames(self, lengths: Tensor) -> Tensor:
        """Samples -> columns: min(max_audio_s, lengths // hop + 1)."""
        return (lengths // self.hop_length + 1).clamp(max=self.max_samples // self.hop_length)

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, N] in [-1, 1] and lengths [B] in samples -> mel [B, n_mels, F] float32 and mel_lengths [B].

        Raises:
            ValueError: a clip is shorter than one window (`n_fft` samples), or the shapes do not fit.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            return self._features(waveform, lengths)

    def _features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self._check(waveform, lengths, self.n_fft)
        mel_lengths = self.frames(lengths)
        num_frames = int(mel_lengths.max())
        # the windows of the frames after the last still touch the clip and may hold its maximum
        overhang = -(-self.n_fft // (2 * self.hop_length))
        computed = min(num_frames + overhang, self.max_samples // self.hop_length)
        half = self.n_fft // 2
        width = min((computed - 1) * self.hop_length + half, self.max_samples)
        clips = _zero_beyond(waveform[:, :width].float(), lengths)
        clips = F.pad(clips, (0, width - clips.shape[1]))
        # the reflection at the right belongs to the end of the full-length array, not to the end of a clip
        padded = F.pad(clips, (half, half if width == self.max_samples else 0), mode="reflect")
        log_mel = (self._power(padded)[:, :computed] @ self.filters).clamp(min=1e-10).log10()
        log_mel = torch.maximum(log_mel, log_mel.amax(dim=(1, 2), keepdim=True) - 8.0)
        return _zero_beyond((log_mel[:, :num_frames].transpose(1, 2) + 4.0) / 4.0, mel_lengths), mel_lengths


class _NaturalLogMel(_Mel):
    """ln(max(mel of the magnitude, eps)), each clip reflected at its own two ends by `padding` samples."""

    def __init__(
        self,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        fmin: float,
        fmax: float | None,
        eps: float,
        padding: int,
        magnitude_eps: float,
    ) -> None:
        super().__init__(sample_rate, n_fft, hop_length, n_mels, fmin, fmax)
        self.eps, self.padding, self.magnitude_eps = eps, padding, magnitude_eps

    def frames(self, lengths: Tensor) -> Tensor:
        """Samples -> columns."""
        return (lengths + 2 * self.padding - self.n_fft) // self.hop_length + 1

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveform [B, N] in [-1, 1] and lengths [B] in samples -> mel [B, n_mels, F] float32 and mel_lengths [B].

        Differentiable. Raises:
            ValueError: a clip is too short to be reflected or for one frame, or the shapes do not fit.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            return self._features(waveform, lengths)

    def _features(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        self._check(waveform, lengths, max(self.padding + 1, self.n_fft - 2 * self.padding))
        mel_lengths = self.frames(lengths)
        num_frames = int(mel_lengths.max())
        width = (num_frames - 1) * self.hop_length + self.n_fft
        source = (torch.arange(width, device=waveform.device) - self.padding).abs()[None]
        last = lengths[:, None] - 1
        source = (last - (source - last).abs()).clamp(min=0)
        magnitude = (self._power(waveform.float().gather(1, source)) + self.magnitude_eps).sqrt()
        log_mel = (magnitude @ self.filters).clamp(min=self.eps).log()
        return _zero_beyond(log_mel.transpose(1, 2), mel_lengths), mel_lengths


class DecoderMel(_NaturalLogMel):
    """The 24 kHz mel of the flow decoder and the vocoder (specification, section 3.5): lengths // hop columns.

    Args:
        sample_rate, fmin, fmax: Hz.
        n_fft, hop_length: samples; the window is `n_fft` long, each end is reflected by (n_fft - hop_length) / 2.
        n_mels: bins.
        eps: floor before the logarithm.
    """

    def __init__(
        self,
        sample_rate: int = 24000,
        n_fft: int = 1920,
        hop_length: int = 480,
        n_mels: int = 80,
        fmin: float = 0.0,
        fmax: float | None = 8000.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(sample_rate, n_fft, hop_length, n_mels, fmin, fmax, eps, (n_fft - hop_length) // 2, 1e-9)


class AuxiliaryMel(_NaturalLogMel):
    """The 16 kHz mel that the coarse and the refined mel are trained on (specification, section 3.5): lengths // hop + 1 columns.

    The published files give sizes and compression, not the alignment; frames are centred here, as the encoder's are, so that
    column j of both stands for the time j * hop.

    Args:
        sample_rate, fmin, fmax: Hz.
        n_fft, hop_length: samples; the window is `n_fft` long.
        n_mels: bins.
        eps: floor before the logarithm.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 1024,
        hop_length: int = 256,
        n_mels: int = 80,
        fmin: float = 0.0,
        fmax: float | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__(sample_rate, n_fft, hop_length, n_mels, fmin, fmax, eps, n_fft // 2, 1e-12)
