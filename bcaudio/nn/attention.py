"""The attention of this package, for padded batches and packed rows: torch's kernels, and no mask where one can be spared."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Packing:
    """Where the documents (or clips) of a packed row lie; made once per forward, so that no layer has to ask the device.

    Attributes:
        lengths: positions per document, in order; a document may be empty.
        cu_seqlens: [num_documents + 1] int32, where each document starts, and the length of the row.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor

    @classmethod
    def of(cls, lengths: Tensor | Sequence[int], device: torch.device | None = None) -> "Packing":
        """lengths [num_documents] -> Packing, on the device of `lengths` unless another is given."""
        if isinstance(lengths, Tensor):
            device = lengths.device if device is None else device
            lengths = lengths.tolist()
        starts = list(accumulate(lengths, initial=0))
        return cls(tuple(lengths), torch.tensor(starts, dtype=torch.int32, device=device))

    def pack(self, x: Tensor) -> Tensor:
        """[B, T, ...] padded on the right -> [N, ...], the first `lengths[b]` positions of every clip b, joined."""
        return torch.cat([clip[:length] for clip, length in zip(x, self.lengths, strict=True)])

    def unpack(self, x: Tensor, num_positions: int) -> Tensor:
        """[N, ...] -> [B, num_positions, ...], zero beyond each clip; no clip is longer than `num_positions`."""
        padded = pad_sequence(x.split(self.lengths), batch_first=True)
        return F.pad(padded, [0, 0] * (x.dim() - 1) + [0, num_positions - padded.shape[1]])


def attend(q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention, scale 1 / sqrt(D), in which a clip sees only its own positions.

    Args:
        q, k, v: [B, T, H, D], clips padded on the right.
        lengths: [B] valid positions per clip; None when every clip is full. Causal attention never needs them: no valid query
            looks beyond itself. So no mask is built when `lengths` is None or when `causal`.
        causal: position i sees only positions <= i.

    Returns:
        [B, T, H, D]; rows beyond a clip's length are finite and without meaning.
    """
    mask = None
    if lengths is not None and not causal:
        # a row without any visible key would be NaN
        mask = (torch.arange(k.shape[1], device=k.device) < lengths.clamp(min=1)[:, None])[:, None, None, :]
    attended = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, is_causal=causal
    )
    return attended.transpose(1, 2)


def attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing, causal: bool = False) -> Tensor:
    """Softmax attention, scale 1 / sqrt(D), over documents packed into one row; a document sees only itself.

    No mask is ever built. On CUDA in half precision this is one variable-length kernel; elsewhere (there are no such kernels for
    CPUs or float32) one maskless call per document.

    Args:
        q: [N, H, D].
        k, v: [N, H_kv, D]; H_kv divides H (each key head serves H / H_kv query heads).
        packing: where the documents lie; its lengths add up to N.
        causal: a position sees only its own document up to itself.

    Returns:
        [N, H, D].

    Raises:
        ValueError: the lengths do not add up to N.
    """
    if sum(packing.lengths) != q.shape[0]:
        raise ValueError(
            f"attend_packed: documents of {sum(packing.lengths)} positions in all, but the row has {q.shape[0]}; "
            "make the packing from the lengths of this row"
        )
    if q.is_cuda and q.dtype in (torch.float16, torch.bfloat16):
        return _attend_variable_length(q, k, v, packing, causal)
    return _attend_per_document(q, k, v, packing, causal)


def _attend_variable_length(q: Tensor, k: Tensor, v: Tensor, packing: Packing, causal: bool) -> Tensor:
    """`attend_packed` as one kernel."""
    longest = max(packing.lengths, default=0)
    return varlen_attn(
        q,
        k,
        v,
        packing.cu_seqlens,
        packing.cu_seqlens,
        longest,
        longest,
        window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _attend_per_document(q: Tensor, k: Tensor, v: Tensor, packing: Packing, causal: bool) -> Tensor:
    """`attend_packed` as one call per document."""
    grouped = q.shape[1] != k.shape[1]
    # split, not slices: its backward is one concatenation instead of one full-size gradient per document
    documents = zip(*(x.transpose(0, 1)[None].split(packing.lengths, dim=2) for x in (q, k, v)), strict=True)
    attended = [
        F.scaled_dot_product_attention(*document, is_causal=causal, enable_gqa=grouped)
        for document in documents
        if document[0].shape[2]
    ]
    return torch.cat(attended, dim=2)[0].transpose(0, 1) if attended else torch.zeros_like(q)


def zero_beyond(x: Tensor, lengths: Tensor, dim: int = 1) -> Tensor:
    """x with 0.0 from each clip's length on; `dim` is the axis of time, axis 0 the batch."""
    shape = [1] * x.dim()
    shape[dim] = -1
    valid = torch.arange(x.shape[dim], device=x.device).view(shape) < lengths.view(-1, *[1] * (x.dim() - 1))
    return x.masked_fill(~valid, 0.0)
