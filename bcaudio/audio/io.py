"""Reading, writing and resampling audio files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr

_AV_SUFFIXES = {".g722": "g722", ".m4a": None, ".mp4": None, ".aac": None, ".opus": None, ".webm": None}
MAX_CHANNELS = 2


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """float32 [N] at `from_rate` Hz -> float32 [N'] at `to_rate` Hz (soxr, high quality)."""
    if from_rate <= 0 or to_rate <= 0:
        raise ValueError(f"resample: rates are {from_rate} and {to_rate} Hz; both must be positive")
    waveform = np.asarray(waveform, dtype=np.float32)
    return waveform if from_rate == to_rate else soxr.resample(waveform, from_rate, to_rate, quality="HQ").astype(np.float32)


def read_audio(path: str | Path, sample_rate: int) -> np.ndarray:
    """Decode a file to mono float32 [N] at `sample_rate` Hz.

    wav, flac, ogg and mp3 go through soundfile; g722 (raw, 16 kHz), m4a, opus and webm through PyAV. Two channels are averaged.

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, unreadable, more than two channels, or NaN; names the file, the value and the remedy.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such audio file; check the path")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file has 0 bytes; copy it again or drop it")
    read = _read_av if path.suffix.lower() in _AV_SUFFIXES else _read_soundfile
    channels, rate = read(path)
    if channels.shape[0] > MAX_CHANNELS:
        raise ValueError(f"{path}: {channels.shape[0]} channels, at most {MAX_CHANNELS} are read; pick or mix channels first")
    if channels.shape[1] == 0:
        raise ValueError(f"{path}: holds 0 samples of audio; drop it")
    if not np.isfinite(channels).all():
        bad = int((~np.isfinite(channels)).sum())
        raise ValueError(f"{path}: {bad} values are NaN or infinite; export the file again as 16-bit PCM")
    return resample(channels.mean(axis=0), rate, sample_rate)


def _read_soundfile(path: Path) -> tuple[np.ndarray, int]:
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); convert it to wav or flac, or drop it") from error
    return samples.T, rate


def _read_av(path: Path) -> tuple[np.ndarray, int]:
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path}: {path.suffix} needs PyAV; pip install bcaudio[av], or convert the file to wav") from error
    frames: list[np.ndarray] = []
    rate = 0
    try:
        with av.open(str(path), format=_AV_SUFFIXES[path.suffix.lower()]) as container:
            resampler = av.AudioResampler(format="fltp")
            for frame in container.decode(audio=0):
                rate = frame.sample_rate
                frames.extend(part.to_ndarray() for part in resampler.resample(frame))
            if rate:
                frames.extend(part.to_ndarray() for part in resampler.resample(None))
    except (av.FFmpegError, IndexError) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); convert it to wav or flac, or drop it") from error
    if not frames:
        raise ValueError(f"{path}: holds 0 samples of audio; drop it")
    return np.concatenate(frames, axis=1), rate


def write_audio(path: str | Path, waveform: np.ndarray, sample_rate: int) -> None:
    """Write mono float [N] in [-1, 1] as 16 bit; the suffix (.wav, .flac) names the format. Values beyond are clipped."""
    waveform = np.asarray(waveform, dtype=np.float32)
    if waveform.ndim != 1:
        raise ValueError(f"{path}: waveform has shape {waveform.shape}, expected [N]; write one channel")
    if not np.isfinite(waveform).all():
        raise ValueError(f"{path}: the waveform holds NaN or infinity; nothing was written")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.clip(waveform, -1.0, 1.0), sample_rate, subtype="PCM_16")
