"""Which parameters of a stage learn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn


def freeze_all_but(model: nn.Module, patterns: Sequence[str] | None) -> None:
    """Let only parameters learn whose whole name matches a pattern; None lets all learn.

    Raises:
        ValueError: a pattern that matches nothing (usually a misspelt name).
    """
    if patterns is None:
        return
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name in names):
            raise ValueError(
                f"trainable: {pattern!r} matches no parameter; the model has for example {', '.join(names[:3])}, ..., {names[-1]}"
            )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(re.fullmatch(pattern, name) for pattern in patterns))


def frozen_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that must not change."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if not parameter.requires_grad}
