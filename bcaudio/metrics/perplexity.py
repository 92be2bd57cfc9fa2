"""How well a model predicts plain text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bcaudio.metrics.counting import CountingMetric, divide


class Perplexity(CountingMetric):
    """exp(negative log-likelihood / tokens); counts also the bytes of the text, for bits per byte, which no tokenizer changes."""

    higher_is_better = False
    counted = "token"
    name = "perplexity"
    statistics = ("nats", "tokens", "bytes")

    def update(self, log_likelihood: float, num_tokens: int, num_bytes: int, id: str | None = None) -> None:
        """Adds one text: the natural log of its probability, over so many tokens and bytes."""
        self.add_rows([[-float(log_likelihood), num_tokens, num_bytes]], None if id is None else [id])

    def value_of(self, sums: np.ndarray) -> np.ndarray:
        """Perplexity per token."""
        return np.exp(divide(sums[..., 0], sums[..., 1]))

    def count(self) -> int:
        """Tokens."""
        return int(self.sum_of("tokens"))

    def counts(self) -> dict[str, Any]:
        """Nats, tokens, bytes, bits per byte."""
        nats, num_bytes = float(self.sum_of("nats")), int(self.sum_of("bytes"))
        return {
            "nats": nats,
            "tokens": self.count(),
            "bytes": num_bytes,
            "bits_per_byte": nats / math.log(2) / num_bytes if num_bytes else None,
        }
