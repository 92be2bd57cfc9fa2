"""Sounds and spectrograms as data URIs."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcaudio.evaluation import report_media


def test_sounds_are_lossless_while_they_fit_and_compressed_beyond(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, 24000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 24000)
    clip = report_media.AudioShelf([tmp_path / "a.wav"]).clip(tmp_path / "a.wav")
    kind, encoded = clip.uri.split(";base64,")
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(encoded)), dtype="float32")
    assert (kind, rate, clip.duration_s) == ("data:audio/flac", 24000, 1.0)
    np.testing.assert_allclose(decoded, wave, atol=2 / 32768)  # the .wav was rounded to 16 bits before
    small = report_media.AudioShelf([tmp_path / "a.wav"], max_bytes=30_000)
    assert small.clip(tmp_path / "a.wav").uri.startswith("data:audio/ogg;base64,")
    small.bytes_left = 10
    with pytest.raises(ValueError, match=r"a\.wav would take .* bytes, 10 are left for sound"):
        small.clip(tmp_path / "a.wav")


def test_mel_png_has_time_across_and_low_bands_at_the_bottom() -> None:
    from matplotlib import image

    mel = np.zeros((5, 3), dtype=np.float32)
    mel[4, 0] = 1.0  # the last frame, the lowest band
    pixels = image.imread(io.BytesIO(base64.b64decode(report_media.mel_png(mel, 0.0, 1.0).split(",")[1])))
    assert pixels.shape[:2] == (3, 5)
    brightness = pixels[..., :3].sum(-1)
    assert np.unravel_index(brightness.argmax(), brightness.shape) == (2, 4)
