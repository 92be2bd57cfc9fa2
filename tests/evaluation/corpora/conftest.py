"""Tiny evaluation sets in their published layouts, made by the test that reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16_000


@pytest.fixture
def make_audio(tmp_path: Path) -> Callable[..., np.ndarray]:
    """Writes noise (or, in a lossy format, a tone) below `tmp_path`; gives the samples, float32 [N] at 16 kHz."""

    def make(name: str | Path, duration_s: float = 0.5, seed: int = 0, sample_rate: int = RATE) -> np.ndarray:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).integers(-9000, 9000, round(duration_s * sample_rate)).astype(np.int16)
        if path.suffix in (".mp3", ".opus"):
            samples = (9000 * np.sin(2 * np.pi * 220 * np.arange(len(samples)) / sample_rate)).astype(np.int16)
        how = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
        soundfile.write(path, samples, sample_rate, **how)
        return samples.astype(np.float32) / 32768

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a text file below `tmp_path`."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write
