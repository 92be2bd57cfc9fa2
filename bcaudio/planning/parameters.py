"""How many parameters a model has, part by part, and how many of them learn."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Part:
    """A part of a model: elements in all and those that learn."""

    name: str
    total: int
    trained: int

    @property
    def frozen(self) -> int:
        """Elements that do not learn."""
        return self.total - self.trained


def parts_of(model: nn.Module, prefix: str = "") -> list[Part]:
    """The parts of a model in its own order; a tensor that two parts share counts where it comes first.

    A part is the name of a parameter without its last word, up to the first number, and of three words at most
    (`llm.model.layers.0.mlp.up_proj.weight` -> `llm.model.layers`).
    """
    sizes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        words = name.split(".")[:-1]
        end = next((i for i, word in enumerate(words) if word.isdecimal()), len(words))
        part = prefix + (".".join(words[: min(end, 3)]) or name)
        counted = sizes.setdefault(part, [0, 0])
        counted[0] += parameter.numel()
        counted[1] += parameter.numel() if parameter.requires_grad else 0
    return [Part(name, total, trained) for name, (total, trained) in sizes.items()]


def sum_of(parts: Iterable[Part], name: str = "total") -> Part:
    """All parts as one."""
    parts = list(parts)
    return Part(name, sum(part.total for part in parts), sum(part.trained for part in parts))
