"""How good speech sounds, and how alike two voices are, as trained networks judge it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.audio.io import resample
from bcaudio.inference.item import NotRunError

RATE = 16_000
WINDOW = round(9.01 * RATE)  # what the network of DNSMOS was trained on
FITS = {  # published with DNSMOS: raw outputs -> opinion scores, highest power first
    "signal": (-0.08397278, 1.22083953, 0.0052439),
    "background": (-0.13166888, 1.60915514, -0.39604546),
    "overall": (-0.06766283, 1.11546468, 0.04602535),
}


class DNSMOS:
    """Predicted overall quality, 1 (bad) to 5: DNSMOS P.835 (Reddy et al. 2022), the network that the package speechmos carries.

    A shorter sound is repeated to 9.01 s; of a longer one, windows that begin every second are averaged.

    Raises:
        NotRunError: speechmos or onnxruntime is not installed.
    """

    name, higher_is_better = "dnsmos", True

    def __init__(self) -> None:
        found = importlib.util.find_spec("speechmos")  # found, not imported: importing it would need librosa
        try:
            import onnxruntime
        except ImportError:
            found = None
        if found is None or found.origin is None:
            raise NotRunError("DNSMOS needs speechmos and onnxruntime; pip install bcaudio[mos]")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # who wants more takes more processes
        model = Path(found.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def score(self, waveform: np.ndarray, sample_rate: int) -> float:
        """float32 [N] -> predicted overall quality; ValueError for a sound that is empty or not finite."""
        return self.scores(waveform, sample_rate)["overall"]

    def scores(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        """float32 [N] -> predicted quality of `signal`, `background` and `overall`; ValueError as `score`."""
        clip = np.clip(_checked("DNSMOS", waveform, sample_rate), -1, 1)
        if len(clip) < WINDOW:
            clip = np.tile(clip, -(-WINDOW // len(clip)))
        starts = range(0, len(clip) - WINDOW + 1, RATE)
        raw = np.array([self._session.run(None, {"input_1": clip[None, at : at + WINDOW]})[0][0] for at in starts], np.float64)
        return {name: float(np.polyval(fit, raw[:, i]).mean()) for i, (name, fit) in enumerate(FITS.items())}


class SpeakerSimilarity:
    """Cosine of two voices, -1 to 1, in the GE2E encoder of Resemblyzer (Wan et al. 2018).

    Figures of other encoders (WavLM in Seed-TTS-eval) are not comparable with these.

    Raises:
        NotRunError: resemblyzer is not installed.
    """

    name, higher_is_better = "speaker_similarity", True

    def __init__(self) -> None:
        try:
            from resemblyzer import VoiceEncoder
        except ImportError as error:
            raise NotRunError("SpeakerSimilarity needs resemblyzer; pip install bcaudio[speaker]") from error
        self._encoder: Any = VoiceEncoder("cpu", verbose=False)

    def score(self, waveform: np.ndarray, sample_rate: int, reference: np.ndarray, reference_rate: int) -> float:
        """Two sounds, float32 [N] and [M] -> cosine; ValueError for a sound that is empty or not finite."""
        ours, theirs = (
            np.asarray(self._encoder.embed_utterance(_checked("SpeakerSimilarity", sound, rate)), np.float64)
            for sound, rate in ((waveform, sample_rate), (reference, reference_rate))
        )
        return float(ours @ theirs / max(float(np.linalg.norm(ours) * np.linalg.norm(theirs)), 1e-12))


def _checked(who: str, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [N] at 16 kHz."""
    if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
        raise ValueError(f"{who}: the sound, of shape {waveform.shape}, must be [N] finite numbers, at least one")
    return resample(waveform, sample_rate, RATE)
