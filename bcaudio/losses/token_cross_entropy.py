"""Cross-entropy over a large vocabulary without holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T`.

    The gradients are made in the forward pass, chunk by chunk: one chunk of logits lives at a time and no matmul is done twice.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, need_hidden: bool, need_weight: bool
    ) -> Tensor:
        # under autocast the matmul type is autocast's; the softmax and all sums are fp32
        device = hidden.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if need_weight else None
        with torch.autocast(device, enabled=False):
            matrix = weight.to(compute)
            for start in range(0, hidden.shape[0], chunk):
                rows = hidden[start : start + chunk].to(compute)
                target = labels[start : start + chunk].unsqueeze(1)
                logits = (rows @ matrix.T).float()
                log_normaliser = logits.logsumexp(dim=1, keepdim=True)
                total += (log_normaliser - logits.gather(1, target)).sum()
                if not (need_hidden or need_weight):
                    continue
                grad = logits.sub_(log_normaliser).exp_()
                grad.scatter_add_(1, target, torch.full_like(target, -1, dtype=grad.dtype))
                grad = grad.to(compute)
                if grad_hidden is not None:
                    grad_hidden[start : start + chunk] = grad @ matrix
                if grad_weight is not None:
                    grad_weight += grad.T @ rows
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled = (None if grad is None else grad * grad_output.to(grad.dtype) for grad in (grad_hidden, grad_weight))
        return (*scaled, None, None, None, None)


def token_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = 256, reduction: str = "mean") -> Tensor:
    """Cross-entropy of text tokens from hidden states and the matrix of the text head.

    Equal to `F.cross_entropy(hidden @ weight.T, labels)` by value and gradient; ignored positions are dropped before the matmul.

    Args:
        hidden: [..., dim] states after the final norm.
        weight: [vocab_size, dim] of the text head (no bias).
        labels: [...] int64, already shifted; -100 is ignored.
        chunk: positions whose logits exist at a time.
        reduction: `mean` over the positions that count (0 where none does), or `sum`.

    Returns:
        fp32 scalar.

    Raises:
        ValueError: for an unknown reduction, or labels that do not fit `hidden`.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"token_cross_entropy: reduction is {reduction!r}; use mean or sum")
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(f"token_cross_entropy: labels {tuple(labels.shape)} do not fit hidden {tuple(hidden.shape)}")
    keep = labels != IGNORE_INDEX
    rows, targets = hidden[keep], labels[keep]
    needs_grad = torch.is_grad_enabled()
    total = _ChunkedCrossEntropy.apply(
        rows, weight, targets, chunk, needs_grad and rows.requires_grad, needs_grad and weight.requires_grad
    )
    return total if reduction == "sum" else total / max(targets.numel(), 1)
