"""The attention seam against softmax written out for each clip."""

import math

import pytest
import torch

from bcaudio.nn import attention
from bcaudio.nn.attention import Packing, attend, attend_packed, zero_beyond


@pytest.mark.parametrize("causal", [False, True])
def test_attend_equals_softmax_over_each_clips_own_positions(causal: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 3, 7, 2, 4).unbind(0)
    lengths = torch.tensor([7, 4, 1])
    attended = attend(q, k, v, lengths, causal)
    for clip, length in enumerate(lengths.tolist()):
        for head in range(2):
            logits = q[clip, :length, head] @ k[clip, :length, head].T / math.sqrt(4)
            if causal:
                logits = logits.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
            expected = logits.softmax(dim=-1) @ v[clip, :length, head]
            torch.testing.assert_close(attended[clip, :length, head], expected, atol=1e-5, rtol=0)


def test_attend_needs_no_lengths_when_all_clips_are_full() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 5, 1, 4).unbind(0)
    torch.testing.assert_close(attend(q, k, v), attend(q, k, v, torch.tensor([5, 5])), atol=1e-6, rtol=0)


def test_an_empty_clip_gives_no_nan() -> None:
    x = torch.randn(2, 3, 1, 4)
    assert attend(x, x, x, torch.tensor([3, 0])).isfinite().all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("num_kv_heads", [1, 4])
def test_packed_documents_equal_a_dense_mask_by_value_and_gradient(causal: bool, num_kv_heads: int) -> None:
    torch.manual_seed(0)
    lengths = [5, 0, 1, 7, 3]
    q, k, v = (torch.randn(16, heads, 8, requires_grad=True) for heads in (4, num_kv_heads, num_kv_heads))
    attended = attend_packed(q, k, v, Packing.of(lengths), causal)
    document = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))
    visible = document[:, None] == document
    if causal:
        visible = visible & torch.ones(16, 16).tril().bool()
    scores = torch.einsum("qhd,khd->hqk", q, k.expand(-1, 4, -1)) / math.sqrt(8)
    expected = torch.einsum("hqk,khd->qhd", scores.masked_fill(~visible, -torch.inf).softmax(dim=-1), v.expand(-1, 4, -1))
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=0)
    upstream = torch.randn(16, 4, 8)
    found, wanted = (torch.autograd.grad(out, [q, k, v], upstream) for out in (attended, expected))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_changed_document_changes_no_other() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 9, 2, 4).unbind(0)
    packing = Packing.of([4, 5])
    before = attend_packed(q, k, v, packing)
    k[:4], v[:4] = 100.0, -100.0
    after = attend_packed(q, k, v, packing)
    assert torch.equal(before[4:], after[4:])
    assert not torch.allclose(before[:4], after[:4])


def test_on_cuda_half_precision_takes_the_variable_length_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []

    def kernel(*arguments: object, **options: object) -> str:
        calls.append((*arguments[3:], options))
        return "attended"

    class OnCuda(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    q, k = torch.zeros(7, 4, 8, dtype=torch.bfloat16).as_subclass(OnCuda), torch.zeros(7, 2, 8, dtype=torch.bfloat16)
    packing = Packing.of([3, 4])
    assert attend_packed(q, k, k, packing, causal=True) == "attended"
    assert calls == [(packing.cu_seqlens, packing.cu_seqlens, 4, 4, {"window_size": (-1, 0), "enable_gqa": True})]
    assert packing.cu_seqlens.tolist() == [0, 3, 7]
    assert packing.cu_seqlens.dtype == torch.int32
    assert isinstance(attend_packed(q.float(), k.float(), k.float(), packing), torch.Tensor)
    assert len(calls) == 1


def test_lengths_that_do_not_fill_the_row_are_refused() -> None:
    x = torch.zeros(6, 1, 4)
    with pytest.raises(ValueError, match="documents of 5 positions in all, but the row has 6"):
        attend_packed(x, x, x, Packing.of([2, 3]))


def test_packing_joins_clips_and_takes_them_apart() -> None:
    x = torch.arange(1.0, 9.0).view(2, 4, 1)
    packing = Packing.of(torch.tensor([1, 3]))
    packed = packing.pack(x)
    assert packed.flatten().tolist() == [1, 5, 6, 7]
    assert packing.unpack(packed, 4)[..., 0].tolist() == [[1, 0, 0, 0], [5, 6, 7, 0]]


def test_zero_beyond_follows_the_axis_of_time() -> None:
    lengths = torch.tensor([1, 2])
    assert zero_beyond(torch.ones(2, 3, 1), lengths)[..., 0].tolist() == [[1, 0, 0], [1, 1, 0]]
    assert zero_beyond(torch.ones(2, 1, 3), lengths, dim=2)[:, 0].tolist() == [[1, 0, 0], [1, 1, 0]]
