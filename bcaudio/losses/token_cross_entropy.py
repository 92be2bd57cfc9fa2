"""Cross-entropy over a large vocabulary without holding all logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORE_INDEX = -100


# entries of the vocabulary whose weight gradient is added at a time where it cannot be accumulated in place
VOCABULARY_BLOCK = 8192
# entries per matmul on CPUs: with the whole vocabulary at once it takes a tenth longer
CPU_BLOCK = 1024


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of `hidden @ weight.T`.

    The gradients are made in the forward pass, chunk by chunk: one chunk of logits lives at a time and no matmul is done twice.
    The gradient of the weight, as large as the text head, exists once: backward hands it over, and so can run only once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, need_hidden: bool, need_weight: bool
    ) -> tuple[Tensor, Tensor]:
        # under autocast the matmul type is autocast's; the softmax and all sums are fp32
        device = hidden.device.type
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        losses = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if need_weight else None
        with torch.autocast(device, enabled=False):
            matrix = weight.to(compute)
            # one buffer for all chunks: fresh memory costs a page fault every 4 KiB
            buffer = matrix.new_empty(min(chunk, hidden.shape[0]), weight.shape[0])
            for start in range(0, hidden.shape[0], chunk):
                rows = hidden[start : start + chunk].to(compute)
                logits = buffer[: rows.shape[0]]
                block = CPU_BLOCK if device == "cpu" else weight.shape[0]
                for part, columns in zip(matrix.split(block), logits.split(block, dim=1), strict=True):
                    torch.mm(rows, part.T, out=columns)
                loss, grad = _softmax_gradient(logits, labels[start : start + chunk, None])
                losses[start : start + chunk] = loss
                total += loss.sum()
                if grad_hidden is not None:
                    grad_hidden[start : start + chunk] = grad @ matrix
                if grad_weight is not None:
                    _add_outer(grad_weight, grad, rows)
        ctx.save_for_backward(grad_hidden)
        ctx.need_weight = need_weight
        ctx.grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (grad_hidden,) = ctx.saved_tensors
        grad_weight, ctx.grad_weight = ctx.grad_weight, None
        if ctx.need_weight and grad_weight is None:
            raise RuntimeError("token_cross_entropy: backward ran a second time, but the weight's gradient is kept only once")
        if grad_hidden is not None:
            grad_hidden = grad_hidden * grad_output.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight.mul_(grad_output.to(grad_weight.dtype))
        return grad_hidden, grad_weight, None, None, None, None


def _softmax_gradient(product: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, V], overwritten, and target [N, 1] -> loss [N] in fp32, and the gradient of its sum [N, V] typed as logits."""
    logits = product.float()
    peak, at_target = logits.amax(dim=1, keepdim=True), logits.gather(1, target)
    probability = torch.softmax(logits, dim=1, out=logits)
    # the largest probability is exp(peak) / normaliser; torch's own logsumexp is ten times as slow on CPUs
    log_normaliser = peak - probability.amax(dim=1, keepdim=True).log()
    probability.scatter_add_(1, target, torch.full_like(target, -1, dtype=probability.dtype))
    return (log_normaliser - at_target).squeeze(1), probability if product is logits else product.copy_(probability)


def _add_outer(total: Tensor, grad: Tensor, rows: Tensor) -> None:
    """total [V, dim] fp32 += grad [N, V].T @ rows [N, dim], without a second tensor of the size of `total`."""
    if grad.dtype == total.dtype:
        total.addmm_(grad.T, rows)
        return
    for part, columns in zip(total.split(VOCABULARY_BLOCK), grad.split(VOCABULARY_BLOCK, dim=1), strict=True):
        part += columns.T @ rows


def token_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = 512, reduction: str = "mean") -> Tensor:
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
        RuntimeError: in a second backward through the same value while `weight` is trained.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"token_cross_entropy: reduction is {reduction!r}; use mean or sum")
    total, losses = summed_cross_entropy(hidden, weight, labels, chunk)
    return total if reduction == "sum" else total / max(losses.numel(), 1)


def summed_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int = 512) -> tuple[Tensor, Tensor]:
    """As token_cross_entropy with reduction `sum`, and the loss of each of the N positions that count.

    Returns:
        (total, losses): fp32 scalar, and [N] fp32 without gradient, row-major.

    Raises:
        ValueError: labels that do not fit `hidden`.
    """
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(f"token_cross_entropy: labels {tuple(labels.shape)} do not fit hidden {tuple(hidden.shape)}")
    keep = labels != IGNORE_INDEX
    rows, targets = hidden[keep], labels[keep]
    needs_grad = torch.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(
        rows, weight, targets, chunk, needs_grad and rows.requires_grad, needs_grad and weight.requires_grad
    )
