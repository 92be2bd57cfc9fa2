"""Asks a system and keeps what it says: in batches of like length, on any number of ranks; it may be cut off at any moment."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from bcaudio.distributed import is_distributed, rank, world_size
from bcaudio.evaluation.benchmark import Benchmark, Examples, Item, ItemError, NotRunError, Output
from bcaudio.evaluation.stored import OutputFiles, Stored
from bcaudio.recipe.build import build
from bcaudio.recipe.display import duration
from bcaudio.recipe.record import Progress, stage_key

SAY_EVERY_S = 60.0
T = TypeVar("T")


class Selected(Examples):
    """Examples of certain items only, so that the same are kept whatever batches and ranks there are.

    Args:
        folder, root, limit: as for Examples.
        keys: of the items whose examples are kept.
    """

    def __init__(self, folder: Path, root: Path, limit: int, keys: Collection[str]) -> None:
        super().__init__(folder, root, limit)
        self.keys = keys

    def audio(self, key: str, *args: Any, **named: Any) -> None:
        if key in self.keys:
            super().audio(key, *args, **named)

    def mels(self, key: str, *args: Any, **named: Any) -> None:
        if key in self.keys:
            super().mels(key, *args, **named)


@dataclass(frozen=True)
class Plan:
    """A benchmark's items (None: its data are not here) and their digest, the key of its outputs, and whether these are done."""

    items: list[Item] | None
    digest: str | None
    key: str
    done: bool


def checked_items(name: str, benchmark: Benchmark) -> list[Item]:
    """A benchmark's items; ValueError naming the ids that occur twice."""
    items = benchmark.items()
    twice = [id for id, count in Counter(item.id for item in items).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise ValueError(f"benchmarks.{name}: two items have the id {', '.join(twice[:5])}{more}; each needs one of its own")
    return items


def length_of(item: Item) -> tuple[float, int]:
    """What an item costs: seconds of sound (0 for text, or where they are not known), then characters."""
    return item.sample.duration_s, len(item.sample.text) + sum(len(str(value)) for value in item.fields.values())


def batches_of(items: Sequence[Item], batch_size: int) -> list[list[Item]]:
    """Batches of like length, the longest first: what does not fit into memory fails at once, and ranks end together.

    The batches depend on the items alone, not on what is asked already or by whom, so outputs are the same bit by bit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    able = sorted((item for item in items if not item.problem), key=lambda item: (*length_of(item), item.id), reverse=True)
    return [able[start : start + batch_size] for start in range(0, len(able), batch_size)]


def ask_batch(
    name: str, benchmark: Benchmark, system: Any, batch: Sequence[Item], examples: Callable[[], Examples]
) -> dict[str, Any]:
    """Asks one batch; an item that cannot be asked is taken out and the others are asked again.

    Args:
        name: of the benchmark, for errors.
        examples: gives an empty collection for every attempt.

    Returns:
        `{"items": ids, "outputs": [...], "examples": {...}}`; a failed item's output is `{"id", "error"}`.

    Raises:
        NotRunError: as `ask`. Any other error names the benchmark and the ids: ValueError and OSError keep their kind.
    """
    failed: list[Output] = []
    left = list(batch)
    outputs: list[Output] = []
    kept = examples()
    while left:
        kept = examples()
        try:
            outputs = benchmark.ask(system, left, kept)
            break
        except ItemError as error:
            rest = [item for item in left if item.id != error.id]
            if len(rest) == len(left):
                raise RuntimeError(f"benchmarks.{name}: an item that was not asked is blamed: {error}") from error
            failed.append({"id": error.id, "error": error.reason})
            left = rest
        except NotRunError:
            raise
        except Exception as error:
            ids = ", ".join(item.id for item in left)
            kind = ValueError if isinstance(error, ValueError) else OSError if isinstance(error, OSError) else RuntimeError
            raise kind(f"benchmarks.{name}: items {ids}: {type(error).__name__}: {error}") from error
    given = {output["id"] for output in outputs} if left else set()
    if strange := given - {item.id for item in left}:
        raise RuntimeError(f"benchmarks.{name}: outputs for {', '.join(sorted(strange))}, which were not asked")
    failed += [{"id": item.id, "error": "the system gave no output"} for item in left if item.id not in given]
    return {"items": [item.id for item in batch], "outputs": [*(outputs if left else []), *failed], "examples": kept.found}


class Inference:
    """The asking of a recipe's benchmarks; the system is built when the first one needs it.

    Under several processes every rank runs all of this and asks every n-th batch; rank 0 decides what is done already and joins
    what all have written. A rank that fails ends; the others notice when they wait for it.

    Args:
        recipe: resolved; `system`, `seed`, `takes`, `examples` and `benchmarks` are read.
        out: the stage folder.
        taken: name -> key of the folders in `takes`.
        stamp: whatever else the system's answers depend on.
    """

    def __init__(self, recipe: Mapping[str, Any], out: Path, taken: Mapping[str, str], stamp: Any = None) -> None:
        self.recipe, self.out, self.taken, self.stamp = recipe, out, taken, stamp
        self.num_examples = int(recipe.get("examples", 4))
        self.system: Any = None
        self._placed: str | None = None
        self._progress: Progress | None = None
        self._done = 0

    def plan(self, benchmarks: Mapping[str, Benchmark]) -> tuple[dict[str, Plan], dict[str, str]]:
        """What is to be asked by benchmark, and why others are not run; nothing is asked before all items have been looked at."""
        plans: dict[str, Plan] = {}
        not_run: dict[str, str] = {}
        for name, benchmark in benchmarks.items():
            items, digest = None, None
            try:
                items = checked_items(name, benchmark)
                digest = _digest(items)
            except FileNotFoundError as error:
                reason = str(error)
            key = self.key(name)
            done = _from_rank_0(lambda name=name, key=key, digest=digest: self._find(name, key, digest))
            if items is None and not done:
                not_run[name] = reason
            else:
                plans[name] = Plan(items, digest, key, done)
        self._progress = Progress(self.out, sum(len(plan.items or ()) for plan in plans.values() if not plan.done))
        return plans, not_run

    def outputs(self, name: str, benchmark: Benchmark, plan: Plan, place: str = "") -> Stored | None:
        """The outputs of a benchmark on rank 0, None on the others; `place` (`[3/17]`) is shown beside the name.

        Raises:
            NotRunError: on every rank, where any of them met it.
        """
        files = OutputFiles(self.out, name)
        if not plan.done:
            assert plan.items is not None
            self._ask(name, benchmark, plan.items, plan, files, place)
        return files.read() if rank() == 0 else None

    def _ask(self, name: str, benchmark: Benchmark, items: list[Item], plan: Plan, files: OutputFiles, place: str) -> None:
        done = _from_rank_0(lambda: files.begin(plan.key))
        batches = batches_of(items, benchmark.batch_size)
        open_batches = [batch for batch in batches if not done.issuperset(item.id for item in batch)]
        shown = {item.id for item in [item for item in items if not item.problem][: self.num_examples]}
        clock = _Clock(f"{place} {name}".strip(), sum(map(len, batches)), len(done))
        part, reason = files.part(plan.key, rank()), None
        examples = partial(Selected, files.files, self.out, self.num_examples, shown)
        try:
            system = self.system_for(benchmark) if open_batches else None  # by all ranks together, it may need them all
            for batch in open_batches[rank() :: world_size()]:
                seed_batch(system, f"{self.recipe.get('seed')}:{name}:{batch[0].id}")
                files.append(part, ask_batch(name, benchmark, system, batch, examples))
                self._step(clock, len(batch))
        except NotRunError as error:
            reason = str(error)
        reasons = _gathered(reason)
        if found := next((said for said in reasons if said is not None), None):
            raise NotRunError(found)
        self._done += len(items)
        if rank() == 0:
            problems = {item.id: item.problem for item in items if item.problem}
            mark = {"items": plan.digest, "system": getattr(self.system, "description", None), "asked": clock.summary()}
            files.finish(plan.key, [item.id for item in items], problems, self.num_examples, mark)
        _gathered(None)  # nobody reads or goes on before the joined file stands

    def _step(self, clock: _Clock, num_items: int) -> None:
        assert self._progress is not None
        numbers = clock.step(num_items * world_size())
        self._progress.step(self._done + clock.done, **numbers)

    def key(self, name: str) -> str:
        """What the outputs of a benchmark depend on, beside its items: the system, its stages, the seed, the benchmark's node."""
        parts = {field: self.recipe.get(field) for field in ("system", "seed", "takes", "out", "examples")}
        return stage_key({**parts, "benchmark": self.recipe["benchmarks"][name], "stamp": self.stamp}, self.taken)

    def _find(self, name: str, key: str, digest: str | None) -> bool:
        """Whether finished outputs are here, or were in a folder that a change elsewhere in the recipe has set aside; parts of
        them are taken over, too.
        """
        here = OutputFiles(self.out, name)
        if here.is_done(key, digest):
            here.clear()
            return True
        stale = sorted(self.out.parent.glob(f"{self.out.name}.stale-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in stale:
            there = OutputFiles(folder, name)
            if there.is_done(key, digest):
                there.copy_to(self.out)
                return True
            if not here.parts(key) and there.parts(key):
                there.copy_to(self.out)
        return False

    def system_for(self, benchmark: Benchmark) -> Any:
        """The system, with the audio LLM in place that the benchmark asks for."""
        own = self.recipe["system"].get("audio_llm")
        if self.system is None or (own is None and self._placed and benchmark.audio_llm is None):
            self.system, self._placed = build(self.recipe["system"], "system"), None
        if benchmark.audio_llm != self._placed:
            self.system.use_audio_llm(benchmark.audio_llm or own)
            self._placed = benchmark.audio_llm
        return self.system


class _Clock:
    """Counts the items of one benchmark and says now and then how far it is.

    Args:
        what: is said.
        total, done: items.
    """

    def __init__(self, what: str, total: int, done: int) -> None:
        self.what, self.total, self.before, self.done = what, total, done, done
        self.started = self.said = time.monotonic()

    def step(self, num_items: int) -> dict[str, Any]:
        """So many more items are done; what progress shows."""
        self.done = min(self.done + num_items, self.total)
        now = time.monotonic()
        rate = (self.done - self.before) / max(now - self.started, 1e-9)
        left = duration(math.ceil((self.total - self.done) / rate))
        if rank() == 0 and now - self.said >= SAY_EVERY_S:
            self.said = now
            print(f"{self.what}: {self.done} of {self.total} items, {rate:.3g} items/s, {left} left", flush=True)
        return {"asked": f"{self.what} {self.done}/{self.total}", "items/s": round(rate, 2), "left": left}

    def summary(self) -> dict[str, Any]:
        """How long this attempt took."""
        seconds = time.monotonic() - self.started
        return {"wall_s": round(seconds, 3), "items": self.total - self.before, "ranks": world_size()}


def seed_batch(system: Any, text: str) -> None:
    """Sampling starts anew in every batch: what an item is answered does not depend on what was asked before in this process."""
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    torch.manual_seed(number)
    rng = getattr(getattr(system, "generator", None), "rng", None)
    if isinstance(rng, torch.Generator):
        rng.manual_seed(number)


def _digest(items: Sequence[Item]) -> str:
    """SHA-256 over what the items say; the sound and the codes are their stages' affair."""
    digest = hashlib.sha256()
    for item in items:
        said = [item.sample.to_json(), dict(item.fields), item.problem]
        digest.update(json.dumps(said, sort_keys=True, default=repr).encode())
    return digest.hexdigest()


def _from_rank_0(make: Callable[[], T]) -> T:
    """What `make` gives on rank 0, on every rank."""
    if not is_distributed():
        return make()
    box = [make() if rank() == 0 else None]
    _collective(lambda: dist.broadcast_object_list(box))
    return box[0]


def _gathered(mine: T) -> list[T]:
    """What every rank gives, on every rank; waits for all."""
    if not is_distributed():
        return [mine]
    found: list[Any] = [None] * world_size()
    _collective(lambda: dist.all_gather_object(found, mine))
    return found


def _collective(call: Callable[[], None]) -> None:
    try:
        call()
    except RuntimeError as error:
        raise RuntimeError(f"another rank has ended; its own message says why ({str(error).splitlines()[0]})") from error
