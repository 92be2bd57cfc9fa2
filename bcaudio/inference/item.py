"""What a system is asked: one sample, its sound when it is wanted, and what else its benchmark knows of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bcaudio.data.schema import Sample


class NotRunError(Exception):
    """Something cannot be asked here, for a reason that is not a mistake: the system lacks a part or an ability."""


class ItemError(Exception):
    """One item cannot be asked; the others can.

    Args:
        id: of the item.
        reason: why.
    """

    def __init__(self, id: str, reason: str) -> None:
        super().__init__(f"{id}: {reason}")
        self.id, self.reason = id, reason


@dataclass(frozen=True)
class Item:
    """One item of a benchmark.

    Args:
        sample: its texts, spans and codes, where it has them.
        audio: gives its sound, float32 [N], at a sample rate in Hz; None where it has none.
        fields: what a family of benchmarks needs beyond the sample, such as `references` or `choices`.
        problem: why it cannot be asked; empty for a good item.
    """

    sample: Sample
    audio: Callable[[int], np.ndarray] | None = field(default=None, compare=False)
    fields: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def id(self) -> str:
        """The sample's key."""
        return self.sample.key

    def waveform(self, sample_rate: int) -> np.ndarray:
        """float32 [N] at `sample_rate` Hz; ItemError where the item has no sound or it cannot be read."""
        if self.audio is None:
            raise ItemError(self.id, "has no audio")
        try:
            return self.audio(sample_rate)
        except (OSError, ValueError, RuntimeError) as error:
            raise ItemError(self.id, f"its audio cannot be read: {error}") from error
