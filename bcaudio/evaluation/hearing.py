"""How the auditor hears, and the vocabulary of English numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bcaudio.audio.io import resample
from bcaudio.inference.item import NotRunError
from bcaudio.models.ctc_recognizer import CTCRecognizer

TARGET_RATE = 16000
MIN_SAMPLES = 1600

NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
    "thirty",
    "forty",
    "fifty",
    "sixty",
    "seventy",
    "eighty",
    "ninety",
    "hundred",
    "thousand",
]


def auditor_of(system: Any) -> CTCRecognizer:
    """The system's auditor; NotRunError without one."""
    auditor = getattr(system, "auditor", None)
    if auditor is None:
        raise NotRunError("the system has no auditor; name a trained CTCRecognizer in the recipe, or give another `recognizer`")
    return auditor


def hear(auditor: CTCRecognizer, waveforms: Sequence[np.ndarray], sample_rate: int, batch_size: int = 32) -> list[str]:
    """What the auditor hears in each waveform [N] at `sample_rate` Hz: its units joined by spaces; "" for less than 0.1 s of
    sound.
    """
    clips = [resample(np.asarray(waveform, dtype=np.float32), sample_rate, TARGET_RATE) for waveform in waveforms]
    device = next(auditor.parameters()).device
    texts = [""] * len(clips)
    order = sorted((i for i, clip in enumerate(clips) if len(clip) >= MIN_SAMPLES), key=lambda i: len(clips[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        lengths = torch.tensor([len(clips[i]) for i in chosen])
        joined = torch.zeros(len(chosen), int(lengths.max()))
        for row, i in zip(joined, chosen, strict=True):
            row[: len(clips[i])] = torch.from_numpy(clips[i])
        for i, units in zip(chosen, auditor.transcribe(joined.to(device), lengths.to(device)), strict=True):
            texts[i] = " ".join(units)
    return texts
