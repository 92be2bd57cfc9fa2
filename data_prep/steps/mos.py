"""The MOS filter: predicted quality (paper section 3.2: data for the flow decoder is filtered by predicted MOS)."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bcaudio.audio.io import resample
from data_prep.utterance import Clip, Drops, MissingExtra

RATE = 16_000
_WINDOW = round(9.01 * RATE)  # what the network was trained on
_FITS = {  # published with DNSMOS: raw outputs -> opinion scores, highest power first
    "signal": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}


class MosPredictor(Protocol):
    """Predicts how good people would find a sound."""

    def score(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        """float32 [N] -> scores by name, 1 (bad) to 5; `overall` is among them."""
        ...


class DnsMos:
    """DNSMOS P.835 (Reddy et al. 2022), the networks that the package speechmos carries, by onnxruntime. Needs
    `pip install bcaudio[mos]`.
    """

    def __init__(self) -> None:
        self._session: Any = None

    def score(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        if self._session is None:
            self._session = _load()
        clip = np.clip(resample(waveform, sample_rate, RATE), -1, 1)
        clip = np.tile(clip, -(-_WINDOW // len(clip))) if len(clip) < _WINDOW else clip
        starts = range(0, len(clip) - _WINDOW + 1, RATE)
        raw = np.mean([self._score(clip[start : start + _WINDOW]) for start in starts], axis=0)
        return {name: round(float(value), 3) for name, value in zip(_FITS, raw, strict=True)}

    def _score(self, window: np.ndarray) -> list[float]:
        raw = self._session.run(None, {"input_1": window[None].astype(np.float32)})[0][0]
        return [float(np.polyval(fit, value)) for fit, value in zip(_FITS.values(), raw, strict=True)]


def _load() -> Any:
    found = importlib.util.find_spec("speechmos")  # found, not imported: importing it would need librosa
    try:
        import onnxruntime
    except ImportError:
        found = None
    if found is None or found.origin is None:
        raise MissingExtra("DnsMos: speechmos or onnxruntime is not installed; pip install bcaudio[mos]")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the workers are the parallelism
    model = Path(found.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class CheckMos:
    """Drops clips of low predicted quality; text-only clips pass.

    Drops: `low mos`. Adds the measures `mos` (overall), `mos_signal`, `mos_background`, ... as the predictor names them.

    Args:
        predictor: `DnsMos()` unless given.
        min_mos: of the overall score.
    """

    def __init__(self, predictor: MosPredictor | None = None, min_mos: float = 2.8) -> None:
        self.predictor = DnsMos() if predictor is None else predictor
        self.min_mos = min_mos

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if not len(clip.waveform):
                yield clip
                continue
            scores = self.predictor.score(clip.waveform, clip.sample_rate)
            if scores["overall"] < self.min_mos:
                drops.add(clip, self, "low mos", scores["overall"])
            else:
                named = {"mos" if name == "overall" else f"mos_{name}": value for name, value in scores.items()}
                yield replace(clip, measures={**clip.measures, **named})
