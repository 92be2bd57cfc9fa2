from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcaudio.audio.io import read_audio, resample, write_audio


def tone(rate: int, duration_s: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(rate * duration_s)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_written_audio_reads_back(tmp_path: Path, suffix: str) -> None:
    write_audio(tmp_path / f"a.{suffix}", tone(24_000), 24_000)
    np.testing.assert_allclose(read_audio(tmp_path / f"a.{suffix}", 24_000), tone(24_000), atol=1 / 32767)


def test_stereo_is_averaged_and_resampled(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([tone(16_000), np.zeros(8000, np.float32)], axis=1), 16_000, subtype="FLOAT")
    waveform = read_audio(tmp_path / "a.wav", 24_000)
    assert waveform.dtype == np.float32
    assert waveform.shape == (12_000,)
    np.testing.assert_allclose(waveform[1000:-1000], 0.5 * tone(24_000)[1000:-1000], atol=2e-3)


@pytest.mark.parametrize("suffix", ["ogg", "mp3"])
def test_lossy_formats_keep_length_and_tone(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"a.{suffix}", tone(24_000), 24_000)
    waveform = read_audio(tmp_path / f"a.{suffix}", 24_000)
    assert abs(len(waveform) - 12_000) <= 2400
    assert np.argmax(np.abs(np.fft.rfft(waveform[:12_000]))) == pytest.approx(220, abs=1)  # bins of 2 Hz


def test_g722_is_decoded_through_av(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    samples = (tone(16_000) * 32767).astype(np.int16)[None]
    with av.open(str(tmp_path / "a.g722"), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    waveform = read_audio(tmp_path / "a.g722", 16_000)
    assert len(waveform) == pytest.approx(8000, abs=400)
    assert np.argmax(np.abs(np.fft.rfft(waveform[:8000]))) == pytest.approx(220, abs=1)


def test_missing_av_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.g722").write_bytes(b"123")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"a\.g722.*pip install bcaudio\[av\]"):
        read_audio(tmp_path / "a.g722", 16_000)


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.wav").write_text("not audio at all, but words")
    soundfile.write(tmp_path / "six.wav", np.zeros((10, 6)), 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan], np.float32), 16_000, subtype="FLOAT")
    problems = {"empty": "0 bytes", "text": "cannot be decoded", "six": "6 channels", "none": "0 samples", "nan": "1 values"}
    for name, value in problems.items():
        with pytest.raises(ValueError, match=rf"{name}\.wav: .*{value}"):
            read_audio(tmp_path / f"{name}.wav", 16_000)
    with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
        read_audio(tmp_path / "gone.wav", 16_000)


def test_resample_keeps_length_ratio() -> None:
    assert resample(tone(22_050, 1.0), 22_050, 24_000).shape == (24_000,)
    with pytest.raises(ValueError, match="0 and 16000"):
        resample(tone(16_000), 0, 16_000)
