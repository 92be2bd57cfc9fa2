import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bcaudio.losses.token_cross_entropy import token_cross_entropy


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("block", [3, 1024])
def test_value_and_gradients_equal_plain_torch(chunk: int, reduction: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcaudio.losses.token_cross_entropy.CPU_BLOCK", block)
    torch.manual_seed(0)
    hidden = torch.randn(3, 7, 8, requires_grad=True)
    weight = torch.randn(11, 8, requires_grad=True)
    labels = torch.randint(0, 11, (3, 7)).masked_fill(torch.rand(3, 7) < 0.4, -100)
    plain = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction=reduction)
    expected = torch.autograd.grad(2 * plain, [hidden, weight])
    loss = token_cross_entropy(hidden, weight, labels, chunk, reduction)
    found = torch.autograd.grad(2 * loss, [hidden, weight])
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(found, expected)


def test_equal_logits_cost_the_logarithm_of_the_vocabulary() -> None:
    loss = token_cross_entropy(torch.zeros(4, 2), torch.randn(5, 2), torch.tensor([0, -100, 3, 4]))
    assert loss.item() == pytest.approx(math.log(5))


def test_frozen_head_gets_no_gradient_but_the_hidden_state_does() -> None:
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    token_cross_entropy(hidden, weight, torch.tensor([1, 2, 3, -100])).backward()
    assert hidden.grad[:3].abs().sum(dim=1).min() > 0
    assert hidden.grad[3].abs().max() == 0


def test_no_tensor_as_large_as_a_frozen_head_or_as_all_logits_is_made() -> None:
    made: list[int] = []
    hidden, weight = torch.randn(50, 8, requires_grad=True), torch.randn(400, 8)
    head = weight.untyped_storage().data_ptr()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            output = function(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves(output) if isinstance(x, torch.Tensor)]
            made.extend(x.numel() for x in tensors if x.untyped_storage().data_ptr() != head)
            return output

    with Record():
        token_cross_entropy(hidden, weight, torch.randint(0, 400, (50,)), chunk=4).backward()
    # one chunk of logits
    assert max(made) == 4 * 400


def test_a_trained_heads_gradient_is_made_once_and_handed_over() -> None:
    hidden, weight, labels = torch.randn(4, 8), torch.randn(11, 8, requires_grad=True), torch.arange(4)
    loss = token_cross_entropy(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward ran a second time"):
        loss.backward()


def test_bf16_head_gradient_over_several_blocks_of_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcaudio.losses.token_cross_entropy.VOCABULARY_BLOCK", 4)
    torch.manual_seed(0)
    hidden, labels = torch.randn(6, 8).bfloat16(), torch.randint(0, 10, (6,))
    weight = torch.randn(10, 8).bfloat16().requires_grad_()
    exact = weight.detach().double().requires_grad_()
    F.cross_entropy(hidden.double() @ exact.T, labels).backward()
    token_cross_entropy(hidden, weight, labels, chunk=4).backward()
    torch.testing.assert_close(weight.grad.double(), exact.grad, atol=2e-2, rtol=2e-2)


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    hidden, weight = torch.tensor([[200.0]], requires_grad=True), torch.tensor([[1.0], [0.0], [-1.0]])
    loss = token_cross_entropy(hidden, weight, torch.tensor([1]))
    loss.backward()
    # logits 200, 0, -200: the loss is 200, its derivative after the hidden state 1
    assert loss.item() == pytest.approx(200.0)
    assert hidden.grad.item() == pytest.approx(1.0)


def test_all_ignored_gives_zero_loss_and_zero_gradients() -> None:
    hidden, weight = torch.randn(2, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    loss = token_cross_entropy(hidden, weight, torch.full((2,), -100))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0
    assert weight.grad.abs().max() == 0


def test_bf16_loss_is_summed_in_fp32() -> None:
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(600, 16).bfloat16(), torch.randn(50, 16).bfloat16(), torch.randint(0, 50, (600,))
    exact = F.cross_entropy(hidden.double() @ weight.double().T, labels)
    loss = token_cross_entropy(hidden, weight, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)


def test_autocast_keeps_the_types_of_the_gradients() -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(6, 16, requires_grad=True), torch.randn(9, 16, requires_grad=True)
    labels = torch.arange(6)
    expected = torch.autograd.grad(F.cross_entropy(hidden @ weight.T, labels), [hidden, weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_cross_entropy(hidden, weight, labels)
    found = torch.autograd.grad(loss, [hidden, weight])
    torch.testing.assert_close(found, expected, atol=3e-2, rtol=3e-2)


def test_labels_of_another_shape_and_unknown_reductions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \(3,\) do not fit hidden \(4, 8\)"):
        token_cross_entropy(torch.randn(4, 8), torch.randn(5, 8), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="'none'; use mean or sum"):
        token_cross_entropy(torch.randn(4, 8), torch.randn(5, 8), torch.zeros(4, dtype=torch.long), reduction="none")
