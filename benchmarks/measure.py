"""What a benchmark row is, and how time and memory are measured."""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
MEBIBYTE = 2**20
# others' use of the machine from which on a run counts as disturbed
NOTICEABLE_CORES = 0.15


class WrongResultError(ValueError):
    """Ours and the peer disagree: their speeds must not be compared."""


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: `<entry of the suite>.<what>`.
        ours, peer: medians, in `unit`.
        ratio: the figure that the bar speaks of, as the name says it.
        op, bar: the bar holds when `ratio op bar`.
        conditions: sizes, precision, threads, what was compared, what was left out.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    op: Literal[">=", "<="]
    bar: float
    conditions: str

    @property
    def holds(self) -> bool:
        """Whether the bar holds; never for nan."""
        return self.ratio >= self.bar if self.op == ">=" else self.ratio <= self.bar

    def as_dict(self) -> dict[str, Any]:
        """The row of the JSON file."""
        names = ("name", "ours", "peer", "unit", "ratio", "op", "bar", "holds", "conditions")
        return {name: getattr(self, name) for name in names}


def speedup(name: str, ours_s: float, peer_s: float, bar: float, conditions: str) -> Row:
    """A row of two times in seconds; the ratio says how many times as fast ours is."""
    return Row(name, ours_s, peer_s, "s", peer_s / ours_s, ">=", bar, conditions)


class Disturbance:
    """How much of the machine others used since this was made: a slow spell can make either side of a row look bad."""

    def __init__(self) -> None:
        self.start = self._now()

    def cores(self) -> float:
        """Cores kept busy, on average, by anything but this process and its children; 0 where there is no /proc."""
        seconds, all_s, own_s = (now - start for now, start in zip(self._now(), self.start, strict=True))
        return max(0.0, (all_s - own_s) / max(seconds, 0.1))

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds: of the clock, of all processors at work (with what a hypervisor took), of this process and its children."""
        own = sum(os.times()[:4])
        stat = Path("/proc/stat")
        if not stat.exists():
            return time.monotonic(), own, own
        user, nice, system, _idle, _wait, irq, softirq, steal = (int(field) for field in stat.read_text().split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, own


def alternate(*ways: Callable[[], Any], repeats: int = 5, warm_up: bool = True) -> list[float]:
    """Median seconds of each way, run in turn (A B A B ...) so that a slow spell of the machine meets all of them."""
    if warm_up:
        _in_turn(ways)
    rounds = [_in_turn(ways) for _ in range(repeats)]
    return [median(seconds for _, seconds in taken) for taken in zip(*rounds, strict=True)]


def alternate_calmly(*ways: Callable[[], Any], repeats: int = 5, warm_up: bool = True) -> tuple[list[float], str]:
    """`alternate` for ways that start no processes: up to `repeats` rounds more where others used the machine meanwhile.

    Returns:
        the medians of the `repeats` calmest rounds, and a note for the row's conditions where disturbed rounds had to be
        counted ("" otherwise). Whole rounds are counted, so that the machine's own drift meets all ways alike.
    """
    if warm_up:
        _in_turn(ways)
    rounds: list[tuple[float, list[float]]] = []
    while len(rounds) < 2 * repeats and sum(cores <= NOTICEABLE_CORES for cores, _ in rounds) < repeats:
        taken = _in_turn(ways)
        rounds.append((max(cores for cores, _ in taken), [seconds for _, seconds in taken]))
    # all calm rounds are alike: in the order they were made
    counted = sorted(rounds, key=lambda taken: max(taken[0], NOTICEABLE_CORES))[:repeats]
    worst = max(cores for cores, _ in counted)
    note = f"; DISTURBED: other processes used up to {worst:.2f} cores" if worst > NOTICEABLE_CORES else ""
    return [median(seconds) for seconds in zip(*(seconds for _, seconds in counted), strict=True)], note


def _in_turn(ways: Sequence[Callable[[], Any]]) -> list[tuple[float, float]]:
    """Run every way once: (cores that others used, seconds) of each."""
    taken = []
    for way in ways:
        gc.collect()
        disturbance, start = Disturbance(), time.perf_counter()
        way()
        seconds = time.perf_counter() - start
        taken.append((disturbance.cores(), seconds))
    return taken


def check_close(what: str, ours: Tensor, peer: Tensor, tolerance: float) -> float:
    """The largest difference, or WrongResultError when it is beyond `tolerance` (0: the tensors must be equal)."""
    if ours.shape != peer.shape:
        raise WrongResultError(f"{what}: ours has the shape {tuple(ours.shape)}, the peer {tuple(peer.shape)}")
    difference = float((ours.detach() - peer.detach()).abs_().max()) if ours.numel() else 0.0
    if not difference <= tolerance:
        raise WrongResultError(f"{what}: ours and the peer differ by {difference:g}, but at most {tolerance:g} is allowed")
    return difference


def peak_growth(setup: str, **options: Any) -> float:
    """MiB by which a step raises the peak of resident memory, in a process of its own.

    Args:
        setup: `module:function` below the repository; `function(**options)` prepares everything and returns the step.
        options: what JSON can carry.

    Raises:
        RuntimeError: the process failed; its last line is quoted.
    """
    command = [sys.executable, "-m", "benchmarks.measure", setup, json.dumps({"threads": torch.get_num_threads(), **options})]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"peak memory of {setup} with {options}: exit code {done.returncode}: {last}")
    return float(done.stdout.split()[-1])


def _status(key: str) -> int:
    """A figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}; peak memory is measured on Linux only")


def _measure_peak(setup: str, threads: int, **options: Any) -> float:
    """The work of the process that `peak_growth` starts."""
    module, function = setup.split(":")
    torch.set_num_threads(threads)
    step = getattr(__import__(module, fromlist=[function]), function)(**options)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    kept = step()
    growth = _status("VmHWM") - before
    del kept
    return growth / MEBIBYTE


def table(rows: Sequence[Row]) -> str:
    """Rows as aligned text, the conditions below."""
    head = ("row", "ours", "peer", "unit", "ratio", "bar", "holds")
    cells = [
        (row.name, f"{row.ours:.4g}", f"{row.peer:.4g}", row.unit, f"{row.ratio:.3g}", f"{row.op} {row.bar:g}", _yes(row.holds))
        for row in rows
    ]
    widths = [max(len(line[i]) for line in [head, *cells]) for i in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in [head, *cells]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], "", *(f"{row.name}: {row.conditions}" for row in rows)])


def _yes(holds: bool) -> str:
    return "yes" if holds else "NO"


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1], **json.loads(sys.argv[2])))
