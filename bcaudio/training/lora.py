"""LoRA (arXiv 2106.09685) by peft: small adapters learn beside frozen layers and are merged into them at the end of the stage."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from bcaudio.strategies.sharding import LazyTensor
from bcaudio.training.freezing import freeze_all_but

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.", ".lora_B.default."  # how peft names them


class LoRA:
    """W + alpha / rank * B A in place of W, where only A [rank, in] and B [out, rank] learn. B begins with 0.

    Args:
        targets: regular expressions over whole names of linear layers below `model.`; each must match one. The text head cannot
            be a target: the loss reads its weight without calling the layer.
        rank: of the change; alpha: its weight.
        dropout: of what A reads.

    Raises:
        ValueError: a number out of range, or no targets.
    """

    def __init__(self, targets: Sequence[str], rank: int = 16, alpha: float = 32.0, dropout: float = 0.0) -> None:
        if rank < 1 or not alpha > 0 or not 0 <= dropout < 1 or not targets:
            raise ValueError(
                f"lora: rank is {rank}, alpha {alpha}, dropout {dropout}, targets {list(targets)}; rank must be at least 1, "
                "alpha above 0, dropout at least 0 and below 1, and there must be a target"
            )
        self.targets, self.rank, self.alpha, self.dropout = list(targets), rank, alpha, dropout

    def apply(self, model: nn.Module, trainable: Sequence[str] | None) -> None:
        """Put adapters into a model, in place, and freeze the rest but for what `trainable` names.

        Args:
            trainable: patterns over whole names of parameters, as they are without adapters; None or none: adapters alone learn.

        Raises:
            ValueError: peft is not installed, a pattern matches nothing, a target cannot have an adapter or is in `trainable`.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ModuleNotFoundError:
            raise ValueError("lora: needs the package peft; pip install bcaudio[lora]") from None
        layers = self._layers(model)
        freeze_all_but(model, trainable or [])
        for name in layers:
            if model.get_submodule(name).weight.requires_grad:
                raise ValueError(
                    f"lora: {name} is a target, and `trainable` lets {name}.weight learn as well; take it out of one of them"
                )
        besides = [parameter for parameter in model.parameters() if parameter.requires_grad]
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules="|".join(map(re.escape, layers))
        )
        inject_adapter_in_model(config, model)
        for parameter in besides:  # peft has frozen all but its own
            parameter.requires_grad_(True)

    def _layers(self, model: nn.Module) -> list[str]:
        """Names of the targets."""
        read = {id(embedding) for embedding in _heads(model)}
        linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and id(layer) not in read}
        for pattern in self.targets:
            if not any(re.fullmatch(pattern, name) for name in linear):
                examples = ", ".join(list(linear)[:3])
                raise ValueError(f"lora.targets: {pattern!r} matches no layer that can have an adapter; such are {examples}, ...")
        return [name for name in linear if any(re.fullmatch(pattern, name) for pattern in self.targets)]

    def merged(self, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
        """The tensors of a model with adapters as those of a model without: same names, same shapes, adapters added in fp32."""
        found = {}
        for name, tensor in tensors.items():
            if DOWN in name or UP in name:
                continue
            down, up = name.replace(BASE, DOWN), name.replace(BASE, UP)
            if BASE in name and down in tensors:
                make = partial(_sum, tensor, tensors[down], tensors[up], self.alpha / self.rank)
                tensor = LazyTensor(tensor.shape, tensor.kind, make)
            found[plain_name(name)] = tensor
        return found


def plain_name(name: str) -> str:
    """The name of a frozen parameter as it is without adapters."""
    return name.replace(BASE, ".")


def _heads(model: nn.Module) -> list[nn.Module]:
    """The text heads of the language models inside."""
    found = [module.get_output_embeddings() for module in model.modules() if hasattr(module, "get_output_embeddings")]
    return [head for head in found if head is not None]


@torch.no_grad()
def _sum(base: LazyTensor, down: LazyTensor, up: LazyTensor, scale: float) -> Tensor:
    weight, low, high = (part.tensor().float() for part in (base, down, up))  # every rank makes all three, in this order
    return weight + scale * (high @ low)
