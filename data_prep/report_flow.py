"""Where the seconds went: the flow through the steps, counted anew from the done-records of every shard.

Each record tells what went into every step, what was dropped and what was written, so the balance is held per step and shard:
what went in, less what was dropped there, must have gone on. A step that makes sound (synthesis) has a surplus.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Generic, TypeVar

OPEN, WRITE = "open", "write"
OPEN_DROPS = ("read", "pipeline")  # names under which data_prep.task notes what never got into a step
LISTED = 50  # duplicates, and leaks, shown by name
_ROUNDING_S = 6e-5  # of a drop or a clip; a record's sums are rounded to a thousandth
_LISTS = {"duplicates": re.compile("duplicat", re.I), "leaks": re.compile("leak|contaminat", re.I)}

T = TypeVar("T")


class Reservoir(Generic[T]):
    """A random sample of `size` entries of a stream, the same for the same seed and stream."""

    def __init__(self, size: int, seed: str) -> None:
        self.size, self.seen, self.kept = size, 0, []
        self._rng = random.Random(seed)

    def add(self, entry: T) -> None:
        """Offer one entry."""
        self.seen += 1
        if len(self.kept) < self.size:
            self.kept.append(entry)
        elif (place := self._rng.randrange(self.seen)) < self.size:
            self.kept[place] = entry


class Ticker:
    """A line on stderr every few seconds, for work that may be long."""

    def __init__(self, every_s: float = 3.0) -> None:
        self.every_s, self._told = every_s, time.monotonic()

    def tell(self, what: str, done: int, total: int) -> None:
        """`done` of `total` are done; printed only when the last line is long ago."""
        if time.monotonic() - self._told >= self.every_s:
            self._told = time.monotonic()
            print(f"report: {what} {done:,} of {total:,}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Dropped:
    """A drop and the place where its clip came from: phase and shard."""

    phase: int
    shard: str
    key: str
    step: str
    reason: str
    value: Any
    duration_s: float


@dataclass
class Row:
    """One step of the flow. `lost_s` is what is missing after it, `made_s` what it added; None where no count can tell."""

    phase: int
    name: str
    clips: int = 0
    seconds: float = 0.0
    dropped: dict[str, list[float]] = field(default_factory=dict)
    lost_s: float | None = 0.0
    made_s: float = 0.0


@dataclass
class Flow:
    """All phases. Seconds: `seconds_in` + made = `seconds_out` + dropped + `waiting_s` (not yet through) + lost."""

    rows: list[Row] = field(default_factory=list)
    planned: int = 0
    done: list[int] = field(default_factory=list)
    clips_in: int = 0
    seconds_in: float = 0.0
    clips_out: int = 0
    seconds_out: float = 0.0
    waiting_s: float = 0.0
    num_drops: int = 0
    dropped_s: float = 0.0
    missing_clips: int = 0
    picks: dict[tuple[str, str], Reservoir[Dropped]] = field(default_factory=dict)
    lists: dict[str, tuple[int, list[Dropped]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def lost_s(self) -> float | None:
        """Unaccounted seconds; None where a step's counts cannot tell."""
        parts = [row.lost_s for row in self.rows]
        return None if None in parts else sum(part or 0.0 for part in parts)

    @property
    def made_s(self) -> float:
        """Seconds that steps added."""
        return sum(row.made_s for row in self.rows)


def read_flow(out: Path, seed: int, examples: int, ticker: Ticker) -> Flow:
    """Add up every done-record of a data folder; memory does not grow with the number of shards' clips.

    Args:
        out: the folder of a data recipe.
        seed: of the random samples per drop reason.
        examples: how many samples per reason.
        ticker: told of every record.

    Raises:
        FileNotFoundError: no done-record at all.
    """
    folders = [*sorted(out.glob("phase-*"), key=lambda path: int(path.name[6:])), out]
    folders = [folder for folder in folders if (folder / "done").is_dir()]
    if not any(any((folder / "done").glob("*.json")) for folder in folders):
        raise FileNotFoundError(
            f"{out}: no done-records, so no data recipe has run here; python -m data_prep run RECIPE out={out}"
        )
    plans = {path.stem: path for path in sorted((out / "plan").glob("*.jsonl"))}
    flow = Flow(planned=len(plans))
    orders = [_first_steps(folder) for folder in folders]
    written: dict[str, tuple[int, float]] = {}  # what the phase before wrote, per shard
    for phase, folder in enumerate(folders):
        rows = {name: Row(phase, name) for name in (OPEN, *orders[phase], WRITE)}
        flow.rows.extend(rows.values())
        now: dict[str, tuple[int, float]] = {}
        paths = [path for path in sorted((folder / "done").glob("*.json")) if not plans or path.stem in plans]
        for number, path in enumerate(paths):
            ticker.tell(f"done-records of phase {phase},", number, len(paths))
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                opened = _count(record, rows, written.get(path.stem))
            except (ValueError, KeyError, TypeError) as error:
                flow.problems.append(f"{path}: no readable done-record ({error}); run the recipe again")
                continue
            now[path.stem] = (record["num_samples"], record["duration_s"])
            if phase == 0:
                flow.clips_in, flow.seconds_in = flow.clips_in + opened[0], flow.seconds_in + opened[1]
                if path.stem in plans:
                    with open(plans[path.stem], "rb") as lines:
                        flow.missing_clips += sum(1 for _ in lines) - opened[0]
            _note(record, phase, path.stem, flow, seed, examples)
        flow.done.append(len(now))
        flow.waiting_s += sum(seconds for shard, (_, seconds) in written.items() if shard not in now)
        written = now
    flow.clips_out = sum(clips for clips, _ in written.values())
    flow.seconds_out = sum(seconds for _, seconds in written.values())
    return flow


def _first_steps(folder: Path) -> list[str]:
    for path in sorted((folder / "done").glob("*.json")):
        try:
            if names := list(json.loads(path.read_text(encoding="utf-8"))["into"]):
                return names
        except (ValueError, KeyError, TypeError):
            continue
    return []


def _count(record: Mapping[str, Any], rows: Mapping[str, Row], before: tuple[int, float] | None) -> tuple[int, float]:
    """Add one record to the rows and check its balance; what was opened, clips and seconds."""
    drops: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for drop in record["drops"]:
        where = OPEN if drop["step"] in OPEN_DROPS else drop["step"]
        total = drops[where].setdefault(drop["reason"], [0, 0.0])
        total[0] += 1
        total[1] += drop["duration_s"]
    gone = {name: (sum(e[0] for e in reasons.values()), sum(e[1] for e in reasons.values())) for name, reasons in drops.items()}
    into = {name: record["into"].get(name, [0, 0.0]) for name in rows if name not in (OPEN, WRITE)}
    into[WRITE] = [record["num_samples"] + gone.get(WRITE, (0, 0))[0], record["duration_s"] + gone.get(WRITE, (0, 0.0))[1]]
    first, opening = next(iter(into.values())), gone.get(OPEN, (0, 0.0))
    opened = before or (first[0] + opening[0], first[1] + opening[1])
    chain = {OPEN: opened, **into}
    stray = set(drops) - set(rows)  # a step may note drops under another name
    slack_s = 0.002 * len(chain) + _ROUNDING_S * (sum(count for count, _ in gone.values()) + sum(c for c, _ in chain.values()))
    if stray:  # no balance per step, but still one over all of them
        whole = opened[1] - record["duration_s"] - sum(seconds for _, seconds in gone.values())
        _balance(rows[OPEN], whole, slack_s)
    else:
        for (name, (_, seconds)), (_, (_, after)) in pairwise(chain.items()):
            _balance(rows[name], seconds - gone.get(name, (0, 0.0))[1] - after, slack_s)
    for name, (clips, seconds) in chain.items():
        rows[name].clips += clips
        rows[name].seconds += seconds
    for name, reasons in drops.items():
        row = rows[name if name in rows else OPEN]
        for reason, (clips, seconds) in reasons.items():
            total = row.dropped.setdefault(reason if name in rows else f"{name}: {reason}", [0, 0.0])
            total[0] += clips
            total[1] += seconds
    return opened


def _balance(row: Row, rest_s: float | None, slack_s: float) -> None:
    if rest_s is None or row.lost_s is None:
        row.lost_s = None
    elif rest_s > slack_s:
        row.lost_s += rest_s
    elif rest_s < -slack_s:
        row.made_s -= rest_s


def _note(record: Mapping[str, Any], phase: int, shard: str, flow: Flow, seed: int, examples: int) -> None:
    for entry in record["drops"]:
        drop = Dropped(phase, shard, **entry)
        flow.num_drops += 1
        flow.dropped_s += drop.duration_s
        place = (drop.step, drop.reason)
        flow.picks.setdefault(place, Reservoir(examples, f"{seed} {drop.step} {drop.reason}")).add(drop)
        for name, pattern in _LISTS.items():
            if pattern.search(drop.reason):
                total, first = flow.lists.get(name, (0, []))
                flow.lists[name] = (total + 1, [*first, drop] if total < LISTED else first)
