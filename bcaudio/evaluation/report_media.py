"""Sound and spectrograms as data URIs, so that the report is one file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

MAX_MEL_FRAMES = 1500
MAX_AUDIO_BYTES = 7_500_000  # of encoded sound; base64 makes 10 MB of it, which leaves room below 12 MB for the rest
MAX_FILE_BYTES = 64_000_000
_FLAC_BYTES_PER_VALUE = 1.3  # 16-bit speech, measured generously


@dataclass(frozen=True)
class Clip:
    """A playable clip: `uri` for <audio>, its duration in seconds, and about a hundred peaks for its outline."""

    uri: str
    duration_s: float
    sample_rate: int
    peaks: list[float]
    num_bytes: int


class AudioShelf:
    """Encodes clips within one budget of bytes: FLAC while all of them fit, Ogg Vorbis when they do not.

    Args:
        paths: every file the report will play; those that cannot be opened are refused later, by `clip`.
        max_bytes: the budget over all clips.
    """

    def __init__(self, paths: Sequence[Path], max_bytes: int = MAX_AUDIO_BYTES) -> None:
        values = 0
        for path in paths:
            try:
                values += soundfile.info(str(path)).frames
            except soundfile.LibsndfileError:
                continue
        self.lossless = values * _FLAC_BYTES_PER_VALUE <= max_bytes
        self.bytes_left = max_bytes

    def clip(self, path: Path) -> Clip:
        """One file, mixed to mono. Raises ValueError for an unreadable or empty file, or when the budget is spent."""
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
        try:
            waveform, sample_rate = soundfile.read(str(path), dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path.name} is no readable sound: {error.error_string}") from error
        if len(waveform) == 0:
            raise ValueError(f"{path.name} holds no sound")
        mono = np.clip(np.nan_to_num(waveform.mean(axis=1)), -1.0, 1.0)
        buffer = io.BytesIO()
        if self.lossless:
            soundfile.write(buffer, mono, sample_rate, format="FLAC", subtype="PCM_16")
        else:
            soundfile.write(buffer, mono, sample_rate, format="OGG", subtype="VORBIS")
        encoded = buffer.getvalue()
        if len(encoded) > self.bytes_left:
            raise ValueError(
                f"{path.name} would take {len(encoded):,} bytes, {self.bytes_left:,} are left for sound in this report"
            )
        self.bytes_left -= len(encoded)
        kind = "audio/flac" if self.lossless else "audio/ogg"
        peaks = [float(np.abs(part).max()) for part in np.array_split(mono, min(120, len(mono)))]
        return Clip(data_uri(kind, encoded), len(mono) / sample_rate, sample_rate, peaks, len(encoded))


def read_mel(path: Path) -> np.ndarray:
    """A spectrogram [F, n_mels] float32. Raises ValueError when the file holds anything else."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, the limit is {MAX_FILE_BYTES:,}")
    try:
        mel = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path.name} is no readable array: {error}") from error
    if not isinstance(mel, np.ndarray) or mel.ndim != 2 or mel.size == 0 or mel.dtype.kind not in "fiu":
        raise ValueError(f"{path.name} holds no numbers of shape [F, n_mels]")
    return np.nan_to_num(mel.astype(np.float32))


def mel_png(mel: np.ndarray, low: float, high: float) -> str:
    """A spectrogram [F, n_mels] as the data URI of a PNG: time to the right, low bands below, `low`..`high` black to yellow."""
    from matplotlib import image  # costs a second, and only reports draw

    buffer = io.BytesIO()
    high = high if high > low else low + 1.0
    image.imsave(buffer, mel[:MAX_MEL_FRAMES].T, vmin=low, vmax=high, cmap="magma", origin="lower", format="png")
    return data_uri("image/png", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """`data:<kind>;base64,...`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
