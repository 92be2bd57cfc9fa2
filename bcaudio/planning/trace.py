"""What a training step saves for its backward pass and how many operations it takes, found by running it without memory.

Parameters and activations are fake tensors: they have shapes and storages, no content. Small tensors that steer the step (ids,
positions, labels, lengths) are real, so that everything which depends on their values happens as in training. Nothing is
estimated by a formula but attention, whose kernels differ by device: `_Attention`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


@dataclass
class Trace:
    """One step of one rank.

    Args:
        saved_bytes: tensors that autograd keeps for the backward pass, without parameters; a storage counts once.
        forward, backward: FLOPs by part of the step, a multiplication and an addition being two.
    """

    saved_bytes: int = 0
    forward: dict[str, float] = field(default_factory=dict)
    backward: dict[str, float] = field(default_factory=dict)

    @property
    def flops(self) -> float:
        """Forward and backward, all parts."""
        return sum(self.forward.values()) + sum(self.backward.values())


class _Attention(torch.autograd.Function):
    """Softmax attention as a fused kernel does it: queries, keys, values, output, one fp32 sum per query, and a mask, if there is
    one, in the type of the queries are saved, no scores. FLOPs count pairs of positions that see each other."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, add: Callable[[float], None]) -> Tensor:
        *batch, heads, queries, _ = q.shape
        out = q.new_empty(*batch, queries, heads, v.shape[-1]).transpose(-3, -2)  # the layout that these kernels give
        extra = [] if mask is None else [torch.empty(mask.shape, dtype=q.dtype)]
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32), *(_like(q, x) for x in extra))
        ctx.add = add
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *_ = ctx.saved_tensors
        ctx.add(2.0)
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None, None


def _like(fake: Tensor, real: Tensor) -> Tensor:
    return fake.new_empty(real.shape, dtype=real.dtype)


class _Tracer(TorchFunctionMode):
    """Replaces what cannot run on fake tensors: attention kernels, and indexing and counting whose sizes depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_flops = 0.0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if func is torch.Tensor.__getitem__ and _is_real_mask(args[1]):
            return args[0][args[1].nonzero(as_tuple=True)]
        if func is torch.istft:  # its check of the window depends on values; same shape, and as linear in its input
            spectrum, n_fft, hop = args
            return torch.fft.irfft(spectrum.transpose(1, 2), n=n_fft)[:, 1:, :hop].flatten(1)
        if func is torch.bincount and isinstance(args[0], FakeTensor):
            return args[0].new_zeros(kwargs["minlength"])
        return func(*args, **kwargs)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: Any, is_causal: bool = False, **__: Any
    ) -> Tensor:
        if torch.is_autocast_enabled("cpu"):  # attention is among the operations that autocast casts
            q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
        rows, queries, keys = q.shape[:-2].numel(), q.shape[-2], k.shape[-2]
        if attn_mask is not None and attn_mask.dtype == torch.bool and not isinstance(attn_mask, FakeTensor):
            pairs = rows * int(attn_mask.sum()) / attn_mask.shape[:-2].numel()
        else:
            pairs = rows * queries * (keys + 1) / 2 if is_causal else rows * queries * keys
        flops = 4.0 * pairs * q.shape[-1]

        def add(times: float) -> None:
            self.attention_flops += times * flops

        add(1.0)
        return _Attention.apply(q, k, v, attn_mask, add)


def _is_real_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool and not isinstance(index, FakeTensor)


class Recorder:
    """A traced step: `with recorder.part("audio head"): ...` runs it forward, `recorder.backward(loss, part)` backward."""

    def __init__(self, modules: Iterable[nn.Module], mode: FakeTensorMode) -> None:
        self.trace, self.mode = Trace(), mode
        self._saved: dict[int, Tensor] = {}
        self._own = {p.untyped_storage()._cdata for module in modules for p in module.parameters()}
        self._counter, self._tracer = FlopCounterMode(display=False), _Tracer()
        self._stack = ExitStack()

    def __enter__(self) -> Recorder:
        for context in (self._counter, self._tracer, torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)):
            self._stack.enter_context(context)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
        self.trace.saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in self._saved.values())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as the forward pass of a part."""
        with self._counted(self.trace.forward, name):
            yield

    def backward(self, output: Tensor, name: str, grad: Tensor | None = None) -> None:
        """Run the backward pass of a part."""
        if output.requires_grad:
            with self._counted(self.trace.backward, name):
                output.backward(grad)

    def empty(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A fake tensor."""
        return fake(torch.empty(shape, dtype=dtype, device="meta"), self.mode)

    @contextmanager
    def _counted(self, counts: dict[str, float], name: str) -> Iterator[None]:
        before = self._counter.get_total_flops() + self._tracer.attention_flops
        yield
        counts[name] = counts.get(name, 0.0) + self._counter.get_total_flops() + self._tracer.attention_flops - before

    def _save(self, tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in self._own and isinstance(tensor, FakeTensor):
            self._saved[key] = tensor
        return tensor


def fake(tensor: Tensor, mode: FakeTensorMode) -> FakeTensor:
    """A tensor on the meta device as one that claims to lie on the CPU, where autocast and mixed use are as in training."""
    return FakeTensor(mode, tensor, CPU)


@contextmanager
def tracing(modules: Iterable[nn.Module], dtype: torch.dtype = torch.float32, autocast: bool = False) -> Iterator[Recorder]:
    """Give modules on the meta device fake parameters of a dtype and record what runs; the modules are left as they were.

    Args:
        modules: what the step uses.
        dtype: of floating-point parameters (buffers keep theirs).
        autocast: run the step under bf16 autocast, as the trainer's bf16-mixed does outside DeepSpeed.
    """
    modules, mode = list(modules), FakeTensorMode(allow_non_fake_inputs=True)
    kept: list[tuple[dict[str, Any], dict[str, Any]]] = []
    made: dict[int, Tensor] = {}
    for module in (m for root in modules for m in root.modules()):
        for group in (module._parameters, module._buffers):
            kept.append((group, dict(group)))
            for name, tensor in group.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = _fake_of(tensor, dtype, mode)
                group[name] = made[id(tensor)]
    try:
        with Recorder(modules, mode) as recorder, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            yield recorder
    finally:
        for group, before in kept:
            group.update(before)


def _fake_of(tensor: Tensor, dtype: torch.dtype, mode: FakeTensorMode) -> Tensor:
    meta = tensor.detach().to("meta")
    if not isinstance(tensor, nn.Parameter):
        return fake(meta, mode)
    return nn.Parameter(fake(meta.to(dtype) if meta.is_floating_point() else meta, mode), tensor.requires_grad)
