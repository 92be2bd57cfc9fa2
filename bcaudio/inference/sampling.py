"""Choosing the next token or code from scores, with the semantics of Hugging Face's generation processors."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingOptions:
    """How to choose; the order is repetition penalty, temperature, top-k, top-p.

    Args:
        temperature: divides the scores; above 0.
        top_k: keep this many scores; 0 = all.
        top_p: keep the smallest set of classes whose probability reaches this; 1 = all.
        repetition_penalty: divides positive and multiplies negative scores of classes already seen; 1 = none.
        greedy: take the best score (after the penalty) instead of sampling.

    Raises:
        ValueError: for a value outside its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    greedy: bool = False

    def __post_init__(self) -> None:
        checks = {
            "temperature": (self.temperature > 0, "above 0; use greedy for the best score"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 is off"),
        }
        for name, (holds, limit) in checks.items():
            if not holds:
                raise ValueError(f"SamplingOptions: {name} is {getattr(self, name)}, but must be {limit}")


GREEDY = SamplingOptions(greedy=True)
# the published demos' values, one per step of the interleaving loop
FIRST_TEXT = SamplingOptions(temperature=0.8, top_k=20, top_p=0.85, repetition_penalty=1.1)
LATER_TEXT = SamplingOptions(temperature=0.3, top_k=20, top_p=0.85, repetition_penalty=1.05)
AUDIO = SamplingOptions(temperature=0.5, top_k=5, top_p=0.85, repetition_penalty=1.3)


def penalise_repetition(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """scores [B, V], seen [B, V] bool -> scores with those of seen classes lowered."""
    if penalty == 1.0:
        return scores
    return torch.where(seen, torch.where(scores > 0, scores / penalty, scores * penalty), scores)


def keep_top_k(scores: Tensor, top_k: int) -> Tensor:
    """scores [B, V] -> -inf below the k-th best of each row; ties with it stay."""
    if not 0 < top_k < scores.shape[-1]:
        return scores
    threshold = scores.topk(top_k, dim=-1).values[:, -1:]
    return scores.masked_fill(scores < threshold, -math.inf)


def keep_top_p(scores: Tensor, top_p: float) -> Tensor:
    """scores [B, V] -> -inf outside the smallest set of best classes whose probability reaches `top_p`; the best always stays."""
    if top_p >= 1.0:
        return scores
    ascending, order = scores.sort(dim=-1)
    dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    dropped[:, -1] = False
    return scores.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), -math.inf)


def choose(scores: Tensor, seen: Tensor, options: SamplingOptions, rng: torch.Generator | None = None) -> Tensor:
    """The next class of each row.

    Args:
        scores: [B, V] logits; -inf never wins.
        seen: [B, V] bool, the classes already in the row's history.
        options: how to choose.
        rng: source of randomness, on the device of `scores`.

    Returns:
        [B] int64.
    """
    scores = penalise_repetition(scores.float(), seen, options.repetition_penalty)
    if options.greedy:
        return scores.argmax(dim=-1)
    scores = keep_top_p(keep_top_k(scores / options.temperature, options.top_k), options.top_p)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=rng).squeeze(1)
