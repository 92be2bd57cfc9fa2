"""The MOS filter: predicted quality (paper section 3.2: data for the flow decoder is filtered by predicted MOS)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from bcaudio.evaluation.quality import DNSMOS
from bcaudio.inference.item import NotRunError
from data_prep.utterance import Clip, Drops, MissingExtra


class MosPredictor(Protocol):
    """Predicts how good people would find a sound."""

    def score(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        """float32 [N] -> scores by name, 1 (bad) to 5; `overall` is among them."""
        ...


class DnsMos:
    """DNSMOS P.835 (`bcaudio.evaluation.quality.DNSMOS`), loaded where it is first needed. Needs `pip install bcaudio[mos]`."""

    def __init__(self) -> None:
        self._network: DNSMOS | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_network": None}  # another process loads its own

    def score(self, waveform: np.ndarray, sample_rate: int) -> dict[str, float]:
        if self._network is None:
            try:
                self._network = DNSMOS()
            except NotRunError as error:
                raise MissingExtra(f"DnsMos: {error}") from error
        return {name: round(value, 3) for name, value in self._network.scores(waveform, sample_rate).items()}


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
