"""Sources -> steps -> shards: plans the work, runs it on an engine, accounts for every second.

One task makes one shard: it opens the utterances of one chunk of the plan, passes the clips through the steps and writes the
shard, then its done-record. A task whose record and shard are there and fit is never run again, so a broken run goes on where it
was. Where a step must see all clips (`Survey`), the pipeline is cut into phases: the shards before it are kept in `phase-N/`, the
survey judges once over all of them, and the next phase reads those shards with its verdicts.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

from bcaudio.data.index_file import FORMAT, index_path
from bcaudio.data.shards import SAMPLE_RATE
from bcaudio.recipe.record import write_atomic
from data_prep.engine import IN_THIS_PROCESS, Engine
from data_prep.plan import Chunk, plan
from data_prep.task import Task, finished, make_shard, specification
from data_prep.utterance import Source, Step, Survey

VERSION = 4  # of what clips sound like; a change makes every shard anew
FINGERPRINT = {"format": FORMAT, "sample_rate": SAMPLE_RATE}


class Reporter(Protocol):
    """What a job tells its progress to (`bcaudio.recipe.record.Progress`)."""

    total: int

    def step(self, n: int, **numbers: Any) -> None:
        """`n` tasks are done."""
        ...


@dataclass(frozen=True)
class Phase:
    """Steps between two surveys: `before` gave the verdicts that are applied first, `after` looks at what comes out."""

    steps: tuple[Step, ...]
    before: Survey | None = None
    after: Survey | None = None


class Pipeline:
    """The job of a data recipe.

    Args:
        corpora: sources (`data_prep.utterance.Source`).
        steps: steps and surveys, in order.
        max_duration_s: longer clips are dropped when they are opened.

    Raises:
        ValueError: no corpus, or the same corpus twice.
    """

    keeps_folder = True  # a changed recipe makes anew what depends on the change (bcaudio.recipe.record.keeps_what_fits)

    def __init__(self, corpora: list[Source], steps: Sequence[Step | Survey] = (), max_duration_s: float = 300.0) -> None:
        if not corpora:
            raise ValueError("Pipeline: corpora is empty; name at least one source")
        name, count = Counter(source.corpus for source in corpora).most_common(1)[0]
        if count > 1:
            raise ValueError(f"Pipeline: corpus {name!r} is listed twice; name each corpus once")
        self.corpora, self.phases = corpora, phases_of(steps)
        self.max_duration_s = max_duration_s

    def run(self, out: Path, seed: int, progress: Reporter | None = None, engine: Engine = IN_THIS_PROCESS) -> dict[str, Any]:
        """Write `out/shards/*.tar` with indices, `out/text.txt` (training texts), `out/units.json` (their words and hanzi),
        `out/drops.jsonl` (everything left out, with step and reason) and `out/fingerprint.json`. No byte of it depends on the
        engine. Shards of before that fit the recipe are kept; those that it no longer makes are removed, once the others are
        there.

        Returns:
            Counts for the record: shards made and kept, samples and hours per corpus and split, seconds in, out and dropped per
            step and reason, corpora left out and why.
        """
        out.mkdir(parents=True, exist_ok=True)
        for left_behind in out.rglob("*.tmp"):  # by a run that was killed; there is one writer per folder
            left_behind.unlink()
        with tempfile.TemporaryDirectory(prefix="bcaudio-") as scratch:
            chunks, listed = plan(self.corpora, seed, out, Path(scratch))
            if progress is not None:
                progress.total = len(chunks) * len(self.phases)
            records: list[list[dict[str, Any]]] = []
            made, belonging = 0, set()
            for number in range(len(self.phases)):
                tasks = self._tasks(number, chunks, records, out, Path(scratch))
                made += self._run(tasks, records, progress, engine)
                belonging |= {path for task in tasks for path in (task.tar, index_path(task.tar), task.done, task.looks)}
        self._remove_all_but(belonging, out)
        write_atomic(out / "fingerprint.json", json.dumps(FINGERPRINT, indent=1) + "\n")
        drops = list(chain.from_iterable(record["drops"] for phase in records for record in phase))
        write_atomic(out / "drops.jsonl", "".join(json.dumps(drop, ensure_ascii=False) + "\n" for drop in drops))
        total = len(chunks) * len(self.phases)
        return {"shards_made": made, "shards_kept": total - made, **totals(records, drops), **listed}

    def _tasks(
        self, number: int, chunks: Sequence[Chunk], records: Sequence[Sequence[Mapping[str, Any]]], out: Path, scratch: Path
    ) -> list[Task]:
        phase, last = self.phases[number], number == len(self.phases) - 1
        folder = out if last else out / f"phase-{number}"
        verdicts = self._judge(number, chunks, out) if phase.before else {}
        tasks = []
        for position, chunk in enumerate(chunks):
            source = chunk.path if number == 0 else out / f"phase-{number - 1}" / "shards" / f"{chunk.name}.tar"
            content = [
                VERSION,
                FINGERPRINT,
                self.max_duration_s if number == 0 else None,
                chunk.sha256 if number == 0 else records[number - 1][position]["sha256"],
                [specification(step) for step in phase.steps],
                specification(phase.before) if phase.before else None,
                verdicts.get(chunk.name),
                specification(phase.after) if phase.after else None,
            ]
            tasks.append(
                Task(
                    tar=folder / "shards" / f"{chunk.name}.tar",
                    done=folder / "done" / f"{chunk.name}.json",
                    inputs_sha256=hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(),
                    source=source,
                    scratch=scratch,
                    max_duration_s=self.max_duration_s,
                    fingerprint=FINGERPRINT,
                    steps=phase.steps,
                    before=phase.before,
                    verdicts=verdicts.get(chunk.name) or {},
                    after=phase.after,
                )
            )
        return tasks

    def _remove_all_but(self, belonging: set[Path], out: Path) -> None:
        """Shards and done-records that an earlier recipe made in this folder and this one does not."""
        for folder in (out, *out.glob("phase-*")):
            for path in sorted((*folder.glob("shards/*.idx"), *folder.glob("shards/*.tar"), *folder.glob("done/*.json*"))):
                if path not in belonging:
                    path.unlink()
        for folder in out.glob("phase-*"):
            if not any(folder in path.parents for path in belonging):
                shutil.rmtree(folder)

    def _judge(self, number: int, chunks: Sequence[Chunk], out: Path) -> dict[str, dict[str, Any]]:
        """Verdicts of the survey before a phase, by shard and key."""
        survey = self.phases[number].before
        assert survey is not None
        looks = {chunk.name: out / f"phase-{number - 1}" / "done" / f"{chunk.name}.looks.jsonl" for chunk in chunks}

        def seen() -> Iterator[tuple[str, Any]]:
            for path in looks.values():
                with open(path, encoding="utf-8") as lines:
                    yield from (tuple(json.loads(line)) for line in lines)

        verdicts = survey.judge(seen())
        found: dict[str, dict[str, Any]] = {}
        for name, path in looks.items():
            with open(path, encoding="utf-8") as lines:
                keys = [json.loads(line)[0] for line in lines]
            if chosen := {key: verdicts[key] for key in keys if key in verdicts}:
                found[name] = chosen
        return found

    def _run(self, tasks: list[Task], records: list[list[dict[str, Any]]], progress: Reporter | None, engine: Engine) -> int:
        """Run what is not done, append the records of all tasks in their order; the number of shards made now."""
        known = {task.tar: record for task in tasks if (record := finished(task))}
        todo = [task for task in tasks if task.tar not in known]
        before = sum(len(phase) for phase in records)
        for task, record in engine.map(make_shard, todo):
            known[task.tar] = record
            if progress is not None:
                progress.step(before + len(known), shard=task.tar.stem)
        if progress is not None:
            progress.step(before + len(known))
        records.append([known[task.tar] for task in tasks])
        return len(todo)


def phases_of(steps: Sequence[Step | Survey]) -> tuple[Phase, ...]:
    """The steps cut at their surveys; there is always one phase."""
    phases, current, before = [], [], None
    for step in steps:
        if hasattr(step, "judge"):
            phases.append(Phase(tuple(current), before, step))
            current, before = [], step
        else:
            current.append(step)
    return (*phases, Phase(tuple(current), before))


def totals(records: Sequence[Sequence[Mapping[str, Any]]], drops: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Samples and hours at the end by corpus and split, clips and hours into every step, and drops by step and reason."""
    samples: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for record in records[-1]:
        name = record["shard"].rpartition("-")[0]
        samples[name] += record["num_samples"]
        seconds[name] += record["duration_s"]
    into: dict[str, list[float]] = {}
    for number, phase in enumerate(records):
        for record in phase:
            for name, (clips, duration_s) in record["into"].items():
                total = into.setdefault(f"{number}/{name}", [0, 0.0])
                total[0] += clips
                total[1] += duration_s
    dropped: dict[str, dict[str, list[float]]] = {}
    for drop in drops:
        total = dropped.setdefault(drop["step"], {}).setdefault(drop["reason"], [0, 0.0])
        total[0] += 1
        total[1] += drop["duration_s"]

    def hours(entry: Sequence[float]) -> dict[str, float]:
        return {"clips": entry[0], "hours": round(entry[1] / 3600, 4)}

    return {
        "num_samples": dict(samples),
        "hours": {name: round(value / 3600, 4) for name, value in seconds.items()},
        "total_hours": round(sum(seconds.values()) / 3600, 3),
        "into_step": {name: hours(entry) for name, entry in into.items()},
        "dropped": {
            step: {reason: hours(e) for reason, e in sorted(reasons.items())} for step, reasons in sorted(dropped.items())
        },
    }
