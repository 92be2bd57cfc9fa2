"""Least-squares GAN losses and feature matching (HiFi-GAN, arXiv 2010.05646, eq. 1, 2 and 4)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

Judgement = tuple[Tensor, list[Tensor]]
"""What one discriminator says: scores of any shape, and its hidden features."""


def discriminator_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Mean of (1 - D(real))^2 + D(fake)^2, averaged over discriminators -> scalar; 0.5 for a discriminator that always says one
    half.
    """
    terms = [(1.0 - r).square().mean() + f.square().mean() for (r, _), (f, _) in zip(real, fake, strict=True)]
    return sum(terms) / len(terms)


def generator_loss(fake: Sequence[Judgement]) -> Tensor:
    """Mean of (1 - D(fake))^2, averaged over discriminators -> scalar."""
    return sum((1.0 - score).square().mean() for score, _ in fake) / len(fake)


def feature_matching_loss(real: Sequence[Judgement], fake: Sequence[Judgement]) -> Tensor:
    """Mean absolute difference of hidden features, averaged over layers and discriminators -> scalar; no gradient flows into
    `real`.
    """
    terms = [
        (r.detach() - f).abs().mean()
        for (_, real_features), (_, fake_features) in zip(real, fake, strict=True)
        for r, f in zip(real_features, fake_features, strict=True)
    ]
    return sum(terms) / len(terms)
