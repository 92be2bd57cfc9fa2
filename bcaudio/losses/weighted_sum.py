"""Joins named loss terms by the recipe's map of name to weight."""

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightedSum:
    """total = sum of weight * term, over exactly the named terms (arXiv 2502.17239, eq. 3 for the tokenizer).

    Args:
        weights: name -> weight.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not weights:
            raise ValueError("WeightedSum: no weights; name at least one loss term in the recipe")
        self.weights = dict(weights)

    def __call__(self, terms: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Terms, name -> scalar, to the weighted total and the unweighted terms.

        Raises:
            ValueError: the names of the terms are not the names of the weights.
        """
        if terms.keys() != self.weights.keys():
            raise ValueError(
                f"WeightedSum: the recipe weighs {sorted(self.weights)}, but the model gave {sorted(terms)}; without weight: "
                f"{sorted(terms.keys() - self.weights.keys())}, without term: {sorted(self.weights.keys() - terms.keys())}"
            )
        return torch.stack([weight * terms[name] for name, weight in self.weights.items()]).sum(), dict(terms)
