"""What must hold on every rank before the first step: room for checkpoints, memory, clocks, versions. All problems at once."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from bcaudio.distributed import is_distributed, rank, world_size

GIB = 1024**3


class PreflightError(ValueError):
    """The ranks do not fit the run or each other; one line per problem."""


@dataclass(frozen=True)
class Needs:
    """Bytes of a run.

    Args:
        disk: all checkpoints that stand at one time, and the model at the end.
        memory: what one rank will use beyond what it uses now, on its device.
        sharded: every rank writes its own part of a checkpoint; else rank 0 writes all.
    """

    disk: int
    memory: int
    sharded: bool = False


@dataclass(frozen=True)
class RankFacts:
    """What one rank finds: where it runs, its clock (s), free disk and memory (bytes), and what must be the same everywhere."""

    rank: int
    host: str
    clock_s: float
    disk: str
    free_disk: int
    free_memory: int
    on_gpu: bool
    same: Mapping[str, str]


def facts_of_rank(
    folder: str | Path,
    same: Mapping[str, str],
    device: torch.device | str = "cpu",
    clock: Callable[[], float] = time.time,
    host: str | None = None,
) -> RankFacts:
    """The facts of this rank; every rank must call it, since the clocks are read right after a barrier.

    Args:
        folder: where checkpoints go; it or a parent exists.
        same: name -> value of all that must be equal on every rank.
        device: where the rank computes; of a GPU its own memory counts, else the host's.
        clock, host: given by tests.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    on_gpu = torch.device(device).type == "cuda"
    free_memory = torch.cuda.mem_get_info(device)[0] if on_gpu else free_host_memory()
    host = host or socket.gethostname()
    disk = f"{host}:{os.stat(place).st_dev}"
    free_disk = shutil.disk_usage(place).free
    if is_distributed():
        dist.barrier()
    return RankFacts(rank(), host, clock(), disk, free_disk, free_memory, on_gpu, dict(same))


def gather(facts: RankFacts) -> list[RankFacts]:
    """The facts of all ranks, on every rank."""
    if not is_distributed():
        return [facts]
    found: list[RankFacts | None] = [None] * world_size()
    dist.all_gather_object(found, facts)
    return [entry for entry in found if entry is not None]


def free_host_memory() -> int:
    """Bytes that this process's host, or its container, still has."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free


def needs_of(module: nn.Module, keep: int, on_gpu: bool = False, sharded: bool = False) -> Needs:
    """A lower bound for a module under Adam: weights as they are, two fp32 moments per trained weight, one gradient.

    Args:
        module: as built; keep: checkpoints that are kept, beside the one being written.
        on_gpu: the weights still have to go to the device.
        sharded: see Needs; the state is then shared out over the ranks.
    """
    weights = sum(p.numel() * p.element_size() for p in module.parameters())
    trained = [p for p in module.parameters() if p.requires_grad]
    moments = sum(8 * p.numel() for p in trained)
    memory = moments + sum(p.numel() * p.element_size() for p in trained) + weights * on_gpu
    return Needs((keep + 1) * (weights + moments) + weights, memory // (world_size() if sharded else 1), sharded)


def problems(ranks: Sequence[RankFacts], needs: Needs, max_clock_skew_s: float = 5.0) -> list[str]:
    """Everything that is wrong, one line each; the same lines on every rank, as they see the same facts."""
    return [*_different(ranks), *_clocks(ranks, max_clock_skew_s), *_disks(ranks, needs), *_memory(ranks, needs)]


def check(ranks: Sequence[RankFacts], needs: Needs, max_clock_skew_s: float = 5.0) -> None:
    """Refuse a run that has problems.

    Raises:
        PreflightError: with all of them.
    """
    found = problems(ranks, needs, max_clock_skew_s)
    if found:
        lines = "".join(f"\n  {line}" for line in found)
        raise PreflightError(f"preflight: {len(found)} problem{'s' if len(found) > 1 else ''} before the first step{lines}")


def _different(ranks: Sequence[RankFacts]) -> list[str]:
    lines = []
    for name in sorted({name for facts in ranks for name in facts.same}):
        values = [facts.same.get(name, "-") for facts in ranks]
        usual = Counter(values).most_common(1)[0][0]
        for value in sorted(set(values) - {usual}):
            them = [facts for facts, found in zip(ranks, values, strict=True) if found == value]
            lines.append(
                f"{_named(them)}: {name} is {value}, but {usual} on {values.count(usual)} of {len(ranks)}; make them equal"
            )
    return lines


def _clocks(ranks: Sequence[RankFacts], limit_s: float) -> list[str]:
    middle = statistics.median_low([facts.clock_s for facts in ranks])
    return [
        f"{_named([facts])}: the clock is {facts.clock_s - middle:+.1f} s off the others', the limit is {limit_s:g} s; "
        "synchronise it (chrony, ntpd)"
        for facts in ranks
        if abs(facts.clock_s - middle) > limit_s
    ]


def _disks(ranks: Sequence[RankFacts], needs: Needs) -> list[str]:
    writers = list(ranks) if needs.sharded else [facts for facts in ranks if facts.rank == 0]
    lines = []
    for disk in dict.fromkeys(facts.disk for facts in writers):
        them = [facts for facts in writers if facts.disk == disk]
        needed, free = needs.disk * len(them) // len(writers), min(facts.free_disk for facts in them)
        if free < needed:
            lines.append(
                f"{_named(them)}: checkpoints need {_size(needed)} of disk, {_size(free)} are free; "
                "free some, keep fewer checkpoints, or move `out`"
            )
    return lines


def _memory(ranks: Sequence[RankFacts], needs: Needs) -> list[str]:
    lines = []
    for place in dict.fromkeys((facts.host, facts.rank if facts.on_gpu else -1) for facts in ranks):
        them = [facts for facts in ranks if (facts.host, facts.rank if facts.on_gpu else -1) == place]
        needed, free = needs.memory * len(them), min(facts.free_memory for facts in them)
        if free < needed:
            lines.append(
                f"{_named(them)}: gradients and optimizer need {_size(needed)} of {'GPU' if them[0].on_gpu else 'host'} memory, "
                f"{_size(free)} are free; end what else runs there, or shard the state (ZeRO, FSDP)"
            )
    return lines


def _named(ranks: Sequence[RankFacts]) -> str:
    numbers = [str(facts.rank) for facts in ranks]
    shown = ", ".join(numbers[:8]) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {shown} ({', '.join(dict.fromkeys(facts.host for facts in ranks[:8]))})"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB // 100 else f"{num_bytes / 1024**2:.2f} MiB"
