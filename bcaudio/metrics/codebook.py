"""How evenly the entries of each codebook are used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bcaudio.metrics.counting import SummedMetric


class CodebookUsage(SummedMetric):
    """Entries in use and perplexity, exp(entropy of the entries' shares), of each codebook.

    Args:
        codebook_sizes: entries of each of the K codebooks.
    """

    name = "perplexity"

    def __init__(self, codebook_sizes: Sequence[int]) -> None:
        super().__init__()
        self.codebook_sizes = tuple(int(size) for size in codebook_sizes)
        self.starts = [sum(self.codebook_sizes[:level]) for level in range(len(self.codebook_sizes))]
        self.add_count("histogram", (sum(self.codebook_sizes),))

    def update(self, codes: Tensor) -> None:
        """codes [..., K] int; negative codes (padding, dropped layers) are left out; ValueError beyond a codebook's size."""
        if codes.shape[-1] != len(self.codebook_sizes):
            raise ValueError(f"CodebookUsage: codes {tuple(codes.shape)} must end in {len(self.codebook_sizes)} codebooks")
        for level, (start, size) in enumerate(zip(self.starts, self.codebook_sizes, strict=True)):
            found = codes[..., level].flatten().to(torch.int64)
            found = found[found >= 0]
            if found.numel() and int(found.max()) >= size:
                raise ValueError(f"CodebookUsage: code {int(found.max())} at level {level}, whose codebook has {size} entries")
            self.histogram[start : start + size] += torch.bincount(found, minlength=size).to(self.histogram.device)

    def _levels(self) -> list[Tensor]:
        return list(self.histogram.split(list(self.codebook_sizes)))

    def value(self) -> Tensor:
        """Perplexity per level [K] float64, from 1 (one entry) to the codebook's size (all alike); 0 where a level was not
        used.
        """
        if self.count() == 0:
            raise ValueError("CodebookUsage: no code was counted")
        values = []
        for level in self._levels():
            shares = level.to(torch.float64) / level.sum().clamp(min=1)
            values.append(torch.exp(torch.special.entr(shares).sum()) if level.any() else shares.new_zeros(()))
        return torch.stack(values)

    def count(self) -> int:
        """Codes over all levels."""
        return int(self.histogram.sum())

    def counts(self) -> dict[str, Any]:
        """Entries used, share of entries used and codes counted, per level."""
        used = [int((level > 0).sum()) for level in self._levels()]
        return {
            "used": used,
            "usage": [count / size for count, size in zip(used, self.codebook_sizes, strict=True)],
            "codes": [int(level.sum()) for level in self._levels()],
        }
