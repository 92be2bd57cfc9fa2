"""Residual vector quantiser whose codebooks learn by moving averages (arXiv 2502.17239, section 3.1, eq. 2, 4 and 5)."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bcaudio.distributed import all_reduce_sum, broadcast

EmaForm = Literal["counts", "convex", "paper"]
KMEANS_ITERATIONS = 10
# k-means centres that sit on single vectors would leave nothing for the next level
VECTORS_PER_CENTRE = 4


class VQOutput(NamedTuple):
    """What the quantiser gives for one padded batch; rows beyond a clip's mask are zero.

    Attributes:
        quantized: [B, T, D] sum of the chosen entries, with the gradient of the input (straight-through).
        codes: [B, T, K] int64; all levels, also those that layer dropout left out of `quantized`.
        commitment: [B, T, K] mean over D of the squared distance between the input and the sum of levels 0..k (eq. 2);
            its gradient goes to the input only.
        usage: per level, how often each entry was chosen, [K_i] float32; summed over ranks while training.
    """

    quantized: Tensor
    codes: Tensor
    commitment: Tensor
    usage: tuple[Tensor, ...]


class Codebook(nn.Module):
    """The entries of one level and their running statistics, float32 buffers whatever the precision of the model.

    Args:
        size: entries.
        dim: width.
        initialised: entries are usable as drawn; otherwise the first training batch sets them by k-means.
        count_idle: keep `idle_steps`, the training steps since an entry was last chosen.
    """

    embed: Tensor
    embed_avg: Tensor
    cluster_size: Tensor
    idle_steps: Tensor

    def __init__(self, size: int, dim: int, initialised: bool, count_idle: bool) -> None:
        super().__init__()
        embed = nn.init.kaiming_uniform_(torch.empty(size, dim))
        self.register_buffer("embed", embed)
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("cluster_size", torch.full((size,), float(initialised)))
        if count_idle:
            self.register_buffer("idle_steps", torch.zeros(size, dtype=torch.int64))

    @property
    def counts_idle(self) -> bool:
        """Whether this codebook keeps `idle_steps`."""
        return "idle_steps" in self._buffers

    def nearest(self, x: Tensor) -> Tensor:
        """x [N, D] -> codes [N] of the nearest entries."""
        return self._partial_distances(x).argmin(dim=1)

    def sample(self, x: Tensor, temperature: float) -> Tensor:
        """x [N, D] -> codes [N] drawn from softmax(-distance / temperature) by adding Gumbel noise."""
        squared = self._partial_distances(x) + x.square().sum(dim=1, keepdim=True)
        logits = squared.clamp(min=0).sqrt() / -temperature
        return (logits - torch.empty_like(logits).exponential_().log()).argmax(dim=1)

    def _partial_distances(self, x: Tensor) -> Tensor:
        """[N, K]: squared distances without the |x|^2, which is the same for all entries."""
        # vector_norm reads a large codebook once, without a second tensor of its size
        return torch.addmm(torch.linalg.vector_norm(self.embed, dim=1).square(), x, self.embed.t(), alpha=-2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Codebook":
        """Follow the model to a device, but stay in float32 when the model is cast."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers[name]
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """`idle_steps` is ours: published checkpoints lack it, and a model without restart has no use for it."""
        name = f"{prefix}idle_steps"
        if self.counts_idle and f"{prefix}embed" in state_dict:
            state_dict.setdefault(name, torch.zeros_like(self.idle_steps))
        elif not self.counts_idle:
            state_dict.pop(name, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


class ResidualVQ(nn.ModuleList):
    """Levels of codebooks, each quantising what the levels before it left over.

    A list of its levels: level i holds `[i].codebook.{embed, embed_avg, cluster_size}`, the published names below `vq_list`.
    In `train()` mode every `forward` also learns: the counts and sums of all levels go over all ranks in one reduction, so that
    every rank ends with the codebooks of one process that saw the joined batch. All randomness is torch's global generator.

    Args:
        codebook_sizes: entries per level.
        dim: width of the vectors; there is no projection.
        ema_decay: alpha of eq. 4.
        norm_beta: beta of eq. 5; entries are multiplied by (1 - beta), which bounds their norm.
        ema_form: "counts": running sum / running count, the state stored in the published checkpoint; "convex":
            alpha * entry + (1 - alpha) * mean; "paper": eq. 4 as printed, alpha * entry + mean (stable only with a large beta).
            Entries not chosen in a step keep their value.
        restart_after: training steps after which an unused entry is replaced by a vector of the batch; None: never.
        restart_share: the largest share of a level's entries replaced in one step (at least one). Replacing all at once lets
            small batches memorise themselves: the residuals vanish and the lower levels collapse.
        layer_dropout: probability, per clip, of keeping only the first n levels in training, n uniform in 1..K.
        gumbel_temperature: draw codes from softmax(-distance / temperature) in training; 0: always the nearest.
        kmeans_init: set the entries from the first training batch.
        eps: floor of the running count.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int],
        dim: int,
        ema_decay: float = 0.99,
        norm_beta: float = 0.0,
        ema_form: EmaForm = "counts",
        restart_after: int | None = None,
        restart_share: float = 0.1,
        layer_dropout: float = 0.0,
        gumbel_temperature: float = 0.0,
        kmeans_init: bool = True,
        eps: float = 1e-5,
    ) -> None:
        shares = {"ema_decay": ema_decay, "norm_beta": norm_beta, "restart_share": restart_share, "layer_dropout": layer_dropout}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"ResidualVQ: {name} is {share}, but must lie in 0..1")
        if ema_form not in ("counts", "convex", "paper"):
            raise ValueError(f'ResidualVQ: ema_form is "{ema_form}", but must be "counts", "convex" or "paper"')
        no_steps = restart_after is not None and restart_after < 1
        if not codebook_sizes or min(codebook_sizes) < 1 or gumbel_temperature < 0 or no_steps:
            raise ValueError(
                f"ResidualVQ: codebook_sizes {list(codebook_sizes)} must name at least one positive size, gumbel_temperature "
                f"{gumbel_temperature} must not be negative, restart_after {restart_after} must be None or at least 1"
            )
        codebooks = [Codebook(size, dim, not kmeans_init, restart_after is not None) for size in codebook_sizes]
        # one level is a module with the single part `codebook`
        super().__init__(nn.ModuleDict({"codebook": codebook}) for codebook in codebooks)
        self.codebook_sizes, self.dim = tuple(codebook_sizes), dim
        self.ema_decay, self.norm_beta, self.ema_form, self.eps = ema_decay, norm_beta, ema_form, eps
        self.restart_after, self.restart_share = restart_after, restart_share
        self.layer_dropout, self.gumbel_temperature = layer_dropout, gumbel_temperature

    @property
    def codebooks(self) -> list[Codebook]:
        """The codebook of every level."""
        return [level.codebook for level in self]

    @property
    def num_codebooks(self) -> int:
        """Levels."""
        return len(self)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> VQOutput:
        """h [B, T, D], mask [B, T] (True: a real position; None: all) -> VQOutput; learns in `train()` mode."""
        valid = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask.bool()
        with torch.autocast(h.device.type, enabled=False):
            rows = valid.flatten().nonzero()[:, 0]
            x = h.flatten(0, 1).index_select(0, rows).float()
            with torch.no_grad():
                codes, residuals = self._quantise(x.detach())
                kept = self._kept_levels(h.shape[0], h.device)[rows // h.shape[1]]
                total = torch.zeros_like(x)
                for level, (before, after) in enumerate(pairwise(residuals)):
                    total += (before - after) * (level < kept)[:, None]
            commitment = torch.stack([(x - (x.detach() - left)).square().mean(dim=1) for left in residuals[1:]], dim=1)
            usage = self._learn(codes, residuals) if self.training else self._counts(codes)
            straight = x + (total - x).detach()

        def padded(packed: Tensor) -> Tensor:
            """[N, C] -> [B, T, C], zero where there is no position."""
            zeros = packed.new_zeros(h.shape[0] * h.shape[1], packed.shape[1])
            return zeros.index_copy(0, rows, packed).view(*h.shape[:2], -1)

        return VQOutput(padded(straight).to(h.dtype), padded(codes), padded(commitment), usage)

    @torch.no_grad()
    def encode(self, h: Tensor) -> Tensor:
        """h [..., D] -> nearest codes [..., K] int64; never draws, never learns."""
        with torch.autocast(h.device.type, enabled=False):
            residual = h.reshape(-1, self.dim).float()
            codes = []
            for codebook in self.codebooks:
                codes.append(codebook.nearest(residual))
                residual = residual - F.embedding(codes[-1], codebook.embed)
        return torch.stack(codes, dim=1).view(*h.shape[:-1], len(self))

    def decode(self, codes: Tensor, num_levels: int | None = None) -> Tensor:
        """Codes [..., K] -> sum of the entries of the first `num_levels` levels (None: all) [..., D] float32.

        Raises:
            ValueError: `num_levels` is not in 1..K, or the last axis of `codes` has fewer levels.
        """
        levels = len(self) if num_levels is None else num_levels
        if not 1 <= levels <= len(self) or codes.shape[-1] < levels:
            raise ValueError(
                f"ResidualVQ.decode: num_levels is {levels}, but there are {len(self)} codebooks and codes {tuple(codes.shape)}"
            )
        total = F.embedding(codes[..., levels - 1], self.codebooks[levels - 1].embed)
        # last level first, as the published code adds them
        for i in reversed(range(levels - 1)):
            total = total + F.embedding(codes[..., i], self.codebooks[i].embed)
        return total

    def _quantise(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """x [N, D] -> codes [N, K] and what is left before each level and after the last, K + 1 times [N, D]."""
        codes, residuals = [], [x]
        for codebook in self.codebooks:
            if self.training and not bool(codebook.cluster_size.any()):
                _kmeans_init(codebook, residuals[-1])
            draw = self.training and self.gumbel_temperature > 0
            chosen = codebook.sample(residuals[-1], self.gumbel_temperature) if draw else codebook.nearest(residuals[-1])
            codes.append(chosen)
            residuals.append(residuals[-1] - F.embedding(chosen, codebook.embed))
        return torch.stack(codes, dim=1), residuals

    def _kept_levels(self, num_clips: int, device: torch.device) -> Tensor:
        """[B] how many leading levels each clip keeps."""
        everything = torch.full((num_clips,), len(self), device=device)
        if not self.training or self.layer_dropout == 0:
            return everything
        fewer = torch.randint(1, len(self) + 1, (num_clips,), device=device)
        return torch.where(torch.rand(num_clips, device=device) < self.layer_dropout, fewer, everything)

    def _counts(self, codes: Tensor) -> tuple[Tensor, ...]:
        """Codes [N, K] -> uses per entry, per level [K_i] float32."""
        return tuple(torch.bincount(codes[:, i], minlength=size).float() for i, size in enumerate(self.codebook_sizes))

    @torch.no_grad()
    def _learn(self, codes: Tensor, residuals: list[Tensor]) -> tuple[Tensor, ...]:
        """Update every level from codes [N, K] and the inputs of the levels; returns the counts over all ranks."""
        # columns 0..D-1 are sums, column D the counts: one reduction for all levels
        statistics = residuals[0].new_zeros(sum(self.codebook_sizes), self.dim + 1)
        parts = statistics.split(self.codebook_sizes)
        for part, column, residual in zip(parts, codes.unbind(1), residuals, strict=False):
            part[:, :-1].index_add_(0, column, residual)
            part[:, -1] = torch.bincount(column, minlength=len(part))
        all_reduce_sum(statistics)
        for part, codebook, before, after in zip(parts, self.codebooks, residuals[:-1], residuals[1:], strict=True):
            self._move(codebook, part[:, :-1], part[:, -1])
            if self.restart_after is not None:
                self._restart(codebook, part[:, -1], before, after)
        return tuple(part[:, -1].clone() for part in parts)

    def _move(self, codebook: Codebook, sums: Tensor, counts: Tensor) -> None:
        """Eq. 4 and 5 in the chosen form; sums [K, D] and counts [K] of this step."""
        codebook.cluster_size.lerp_(counts, 1 - self.ema_decay)
        codebook.embed_avg.lerp_(sums, 1 - self.ema_decay)
        if self.ema_form == "counts":
            moved = codebook.embed_avg / codebook.cluster_size.clamp(min=self.eps)[:, None]
        else:
            mean = sums / counts.clamp(min=1)[:, None]
            moved = self.ema_decay * codebook.embed + (mean if self.ema_form == "paper" else (1 - self.ema_decay) * mean)
        codebook.embed.copy_(torch.where(counts[:, None] > 0, (1 - self.norm_beta) * moved, codebook.embed))

    def _restart(self, codebook: Codebook, counts: Tensor, before: Tensor, after: Tensor) -> None:
        """Replace entries idle for `restart_after` steps by vectors of rank 0's batch, `before` [N, D].

        `after` [N, D] is what this level left of them: a vector that an entry already equals is no candidate, nor is a copy.
        """
        codebook.idle_steps.add_(1).masked_fill_(counts > 0, 0)
        size = len(counts)
        idle = codebook.idle_steps >= self.restart_after
        limit = min(int(idle.sum()), max(1, int(self.restart_share * size)))
        if limit == 0:
            return
        slots = codebook.idle_steps.topk(limit).indices
        new = (after.square().sum(dim=1) > 1e-8 * before.square().sum(dim=1)).nonzero()[:, 0]
        drawn = new[torch.randperm(len(new), device=new.device)[:limit]]
        found = torch.unique(before[drawn], dim=0)
        # ranks may find different numbers of vectors, so the last column says which rows of rank 0 count
        rows = before.new_zeros(limit, self.dim + 1)
        rows[: len(found), :-1] = found
        rows[: len(found), -1] = 1
        broadcast(rows)
        slots, vectors = slots[rows[:, -1] > 0], rows[rows[:, -1] > 0, :-1]
        codebook.embed[slots] = vectors
        codebook.embed_avg[slots] = vectors
        codebook.cluster_size[slots] = 1.0
        codebook.idle_steps[slots] = 0


def _kmeans_init(codebook: Codebook, x: Tensor) -> None:
    """Set a fresh codebook from rank 0's vectors x [N, D]: k-means, at least `VECTORS_PER_CENTRE` vectors to a centre on average.

    Entries beyond that are drawn from a normal distribution with the vectors' mean and variance; they are never copies.
    """
    size = len(codebook.embed)
    if len(x) > 0:
        num_centres = min(size, max(1, len(x) // VECTORS_PER_CENTRE))
        centres = x[torch.randperm(len(x), device=x.device)[:num_centres]]
        for _ in range(KMEANS_ITERATIONS):
            nearest = torch.addmm(centres.square().sum(dim=1), x, centres.t(), alpha=-2).argmin(dim=1)
            counts = torch.bincount(nearest, minlength=num_centres)[:, None]
            sums = torch.zeros_like(centres).index_add_(0, nearest, x)
            centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        others = torch.randn(size - num_centres, x.shape[1], device=x.device)
        codebook.embed.copy_(torch.cat([centres, others * x.std(dim=0, correction=0) + x.mean(dim=0)]))
    broadcast(codebook.embed)
    codebook.embed_avg.copy_(codebook.embed)
    codebook.cluster_size.fill_(1.0)
