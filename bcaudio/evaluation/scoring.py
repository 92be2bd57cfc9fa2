"""Stored outputs -> figures with intervals, counts and stamps: results.json and items.jsonl. No model is asked or loaded."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bcaudio.evaluation.bars import Bar, parse_bar
from bcaudio.evaluation.benchmark import Absent, Benchmark, Output, Result, Scoring, result
from bcaudio.evaluation.bootstrap import confidence_interval
from bcaudio.evaluation.contamination import with_and_without
from bcaudio.evaluation.stored import OutputFiles, Stored
from bcaudio.evaluation.suite_report import write_suite_report
from bcaudio.metrics.counting import CountingMetric
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import read_json, versions, write_atomic
from bcaudio.text.normalize import DEFAULT, NORMALIZERS, normalizer

SCORERS = ("jiwer", "sacrebleu", "pocketsphinx", "torchmetrics")
SHOWN_FAILURES = 3
STAGE_FIELDS = (
    *("status", "key", "git_commit", "seed", "steps", "attempts", "wall_s", "cpu_s", "peak_memory_mb"),
    *("trainable", "frozen", "metrics", "gate"),
)


@dataclass(frozen=True)
class Scored:
    """The figures of one benchmark by key, and per key and item its row of statistics."""

    results: dict[str, Result]
    items: list[dict[str, Any]]


def scoring_of(recipe: Mapping[str, Any], name: str | None = None) -> Scoring:
    """How a recipe says that its outputs are scored (`normalizer`, `judge`); `name` is another normaliser."""
    judge = build(recipe["judge"], "judge") if recipe.get("judge") else None
    return Scoring(normalizer(name or recipe.get("normalizer") or DEFAULT), judge)


def score_benchmark(
    name: str, benchmark: Benchmark, stored: Stored, scoring: Scoring, leaked: Sequence[str] = (), others: bool = True
) -> Scored:
    """The figures of a benchmark's outputs.

    Every figure comes with its 95 % bootstrap interval (`ci`), with how many of the benchmark's items it was computed over, and,
    where it is of texts and no judge has to be asked for it, with what every other normaliser would have given.

    Args:
        name: of the benchmark, for errors.
        leaked: ids of items that the training has seen; figures are given without them, too.
        others: whether the other normalisers are tried.

    Raises:
        ValueError: the outputs do not fit the benchmark.
    """
    answered = stored.answered
    if not answered:
        reason = next(iter(stored.failed.values()), "there are no items")
        note = f"all {stored.num_items} items failed: {reason}"
        return Scored({name: {"value": None, "note": note, **_covered(stored, 0)}}, [])
    try:
        metrics = _filled(benchmark, answered, scoring)
    except ValueError as error:
        raise ValueError(f"benchmarks.{name}: its outputs cannot be scored: {error}") from error
    under = _under_others(benchmark, answered, scoring) if others and scoring.judge is None else {}
    seen = frozenset(leaked)
    results: dict[str, Result] = {}
    items: list[dict[str, Any]] = []
    for key, metric in metrics.items():
        if isinstance(metric, Absent) or metric.count() == 0:
            note = metric.note if isinstance(metric, Absent) else "no item could be scored"
            results[key] = {"value": None, "note": note, **_covered(stored, 0)}
            continue
        ids = list(getattr(metric, "ids", ()))
        asked = {id.partition(" ")[0] for id in ids}  # an item of two tasks counts in both, with the task behind its id
        row = {**result(metric), "ci": _interval(metric)}
        unjudged = int(row.get("num_failed", 0))  # a judge's verdict that is none
        row |= _covered(stored, len(asked) if ids else len({out["id"] for out in answered}), unjudged)
        row["normalizer"] = scoring.normalizer.name
        if stamp := getattr(scoring.judge, "stamp", None):
            row["judge"] = stamp
        values = {scoring.normalizer.name: row["value"], **{other: found.get(key) for other, found in under.items()}}
        if any(value != row["value"] for value in values.values()):
            row["normalizers"] = dict(sorted(values.items()))
        if seen & asked:
            row["leaked"] = _leaked(metric, seen)
        results[key] = row
        rows = getattr(metric, "rows", None)
        if rows is not None:
            items += [{"key": key, "id": id, "row": row} for id, row in zip(ids, rows.tolist(), strict=True)]
    return Scored(results, items)


def _filled(benchmark: Benchmark, outputs: Sequence[Output], scoring: Scoring) -> Mapping[str, CountingMetric | Absent]:
    """The benchmark's metrics, which hold all outputs already: among several ranks there is nothing to add up."""
    metrics = benchmark.score(outputs, scoring)
    for metric in metrics.values():
        if not isinstance(metric, Absent):
            metric.distributed_available_fn = lambda: False
    return metrics


def _under_others(benchmark: Benchmark, outputs: Sequence[Output], scoring: Scoring) -> dict[str, dict[str, float | None]]:
    """Key -> value by normaliser; nothing for one that has no rules for these texts or cannot be loaded."""
    found: dict[str, dict[str, float | None]] = {}
    for form in NORMALIZERS.values():
        if form.name == scoring.normalizer.name:
            continue
        try:
            metrics = _filled(benchmark, outputs, replace(scoring, normalizer=form))
        except (ValueError, ImportError):
            continue
        found[form.name] = {key: result(metric)["value"] for key, metric in metrics.items() if _has_value(metric)}
    return found


def _has_value(metric: CountingMetric | Absent) -> bool:
    return not isinstance(metric, Absent) and metric.count() > 0


def _leaked(metric: CountingMetric, seen: frozenset[str]) -> dict[str, Any]:
    ids = [id for id in metric.ids if id.partition(" ")[0] in seen]
    value, (low, high) = with_and_without(metric, ids)
    known = math.isfinite(value)
    without = {"value": value if known else None, "ci": [low, high] if known else None}
    return {"num": len({id.partition(" ")[0] for id in ids}), "ids": ids, "without": without}


def _interval(metric: CountingMetric) -> list[float] | None:
    if not getattr(metric, "ids", None):
        return None
    low, high = confidence_interval(metric)
    return [low, high] if math.isfinite(low) and math.isfinite(high) else None


def _covered(stored: Stored, num_scored: int, unjudged: int = 0) -> dict[str, int]:
    return {"num_items": stored.num_items, "num_scored": num_scored, "num_failed": len(stored.failed) + unjudged}


class Report:
    """Collects the figures of a recipe's benchmarks into what results.json and items.jsonl hold.

    Args:
        recipe: resolved.
        scoring: how its outputs are scored.
        bars: key -> text, as the recipe has them; ValueError naming the one that is none.
    """

    def __init__(self, recipe: Mapping[str, Any], scoring: Scoring) -> None:
        self.recipe, self.scoring = recipe, scoring
        self.bars: dict[str, Bar] = {key: parse_bar(text, f"bars.{key}") for key, text in (recipe.get("bars") or {}).items()}
        self.results: dict[str, Result] = {}
        self.items: list[dict[str, Any]] = []
        self.failed: dict[str, dict[str, str]] = {}
        self.not_run: dict[str, str] = {}
        self.system: Any = None

    def add(self, name: str, stored: Stored, scored: Scored) -> None:
        """Takes in one benchmark; ValueError where a key is another benchmark's too."""
        if twice := sorted(scored.results.keys() & self.results.keys()):
            raise ValueError(
                f"benchmarks.{name}: its result {twice[0]} is another benchmark's too; give one of them another name"
            )
        self.results |= scored.results
        self.items += scored.items
        self.system = self.system or stored.mark.get("system")
        if stored.failed:
            self.failed[name] = stored.failed

    def content(self) -> dict[str, Any]:
        """What results.json holds."""
        rows = {key: dict(entry) for key, entry in self.results.items()}
        judged = {}
        for key, bar in self.bars.items():
            value = self.results.get(key, {}).get("value")
            holds = bar.holds(value, self.results)
            judged[key] = {"bar": bar.text, "limit": bar.limit(self.results), "value": value, "holds": holds}
            rows.setdefault(key, {"value": None, "note": "no benchmark gave this result"})
            rows[key] |= {"bar": bar.text, "holds": holds}
        rows |= {f"not run: {name}": {"value": None, "note": f"not run: {why}"} for name, why in self.not_run.items()}
        takes = self.recipe.get("takes") or {}
        return {
            "results": rows,
            "bars": judged,
            "not_run": dict(self.not_run),
            "failed": {name: {"num": len(failed), "items": failed} for name, failed in self.failed.items()},
            "published": self.recipe.get("published") or {},
            "conditions": self._conditions(),
            "stages": {
                name: {field: value for field, value in read_json(Path(folder) / "stage.json").items() if field in STAGE_FIELDS}
                for name, folder in takes.items()
            },
        }

    def _conditions(self) -> dict[str, Any]:
        gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        threads = torch.get_num_threads()
        machine = {"platform": platform.platform(), "processor": platform.processor(), "threads": threads, "gpus": gpus}
        return {
            "command": shlex.join(["bcaudio", *sys.argv[1:]]),
            "model": self.recipe.get("model"),
            "seed": self.recipe.get("seed"),
            "versions": {**versions(), **{package: _version(package) for package in SCORERS}},
            "machine": machine,
            "normalizer": self.scoring.normalizer.name,
            "system": self.system,
            "contamination": self.recipe.get("contamination"),
        }

    def write(self, folder: Path) -> dict[str, Any]:
        """Writes `results.json` and `items.jsonl` into a folder; what the first one holds."""
        content = self.content()
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "items.jsonl", "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in self.items))
        write_atomic(folder / "results.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return content


def score(out: str | Path, normalizer: str | None = None, to: str | Path | None = None) -> int:
    """`bcaudio score OUT`: scores the stored outputs of an evaluation anew; nothing is asked.

    Args:
        out: its folder.
        normalizer: in place of the recipe's; then `to` is `<out>/scores/<normalizer>` unless it is given.
        to: where results.json, items.jsonl and recipe.yaml go, with a link to the outputs; by default `out` itself.

    Returns:
        0 when every bar holds, 1 when one does not.

    Raises:
        FileNotFoundError, ValueError: outputs that are missing, half-written or changed, by file and line; an unknown normaliser.
    """
    out = Path(out)
    if not (out / "recipe.yaml").is_file():
        raise FileNotFoundError(
            f"{out}: has no recipe.yaml, so it is not the folder of an evaluation; `bcaudio evaluate` makes one"
        )
    recipe = load_recipe(out / "recipe.yaml")
    scoring = scoring_of(recipe, normalizer)
    default = out if normalizer in (None, recipe.get("normalizer") or DEFAULT) else out / "scores" / scoring.normalizer.name
    folder = default if to is None else Path(to)
    report = Report(recipe, scoring)
    report.not_run = dict(read_json(out / "stage.json").get("not_run") or {})
    leaks = read_json(out / "leaks.json").get("leaks", {})
    for name, node in recipe["benchmarks"].items():
        if name not in report.not_run:
            benchmark, stored = build(node, f"benchmarks.{name}"), OutputFiles(out, name).read()
            report.add(name, stored, score_benchmark(name, benchmark, stored, scoring, list(leaks.get(name, ()))))
    content = report.write(folder)
    if folder.resolve() != out.resolve():
        write_atomic(folder / "recipe.yaml", (out / "recipe.yaml").read_text(encoding="utf-8"))
        if not (folder / "outputs").exists():
            os.symlink((out / "outputs").resolve(), folder / "outputs")
        if (out / "examples.json").is_file():
            write_atomic(folder / "examples.json", (out / "examples.json").read_text(encoding="utf-8"))
    write_suite_report(folder)
    print_report(content)
    print(f"written: {folder / 'results.json'}", flush=True)
    return 0 if all(bar["holds"] for bar in content["bars"].values()) else 1


def print_report(content: Mapping[str, Any]) -> None:
    """Every figure with its interval and items, every failed item's reason, bars, and what was not run."""
    rows = {key: row for key, row in content["results"].items() if not key.startswith("not run: ")}
    width = max(map(len, rows), default=0)
    for key, row in rows.items():
        print(f"{key:{width}}  {row_text(row)}")
    for name, failed in content["failed"].items():
        reasons = [f"{id}: {reason}" for id, reason in list(failed["items"].items())[:SHOWN_FAILURES]]
        more = f" (all {failed['num']} in outputs/{name}.jsonl)" if failed["num"] > SHOWN_FAILURES else ""
        print(f"failed  {name}: {'; '.join(reasons)}{more}")
    for key, bar in content["bars"].items():
        print(f"{'holds' if bar['holds'] else 'FAILS'}  {key} = {figure(bar['value'])}  (bar {bar['bar']})")
    for name, reason in content["not_run"].items():
        print(f"not run  {name}: {reason}")
    holding = sum(bar["holds"] for bar in content["bars"].values())
    print(f"{len(rows)} results, {holding} of {len(content['bars'])} bars hold", flush=True)


def row_text(row: Mapping[str, Any]) -> str:
    """`0.0068 [0, 0.0153], 120 items`, `0.2 [...], 98 of 100 items (2 failed)`, or why there is no value."""
    parts = [figure(row.get("value"))]
    if row.get("ci"):
        parts[0] += f" [{figure(row['ci'][0])}, {figure(row['ci'][1])}]"
    if "num_items" in row:
        num_items, num_scored = row["num_items"], row["num_scored"]
        failed = f" ({row['num_failed']} failed)" if row["num_failed"] else ""
        parts.append(f"{num_items} items" if num_scored == num_items else f"{num_scored} of {num_items} items{failed}")
    if row.get("leaked"):
        parts.append(f"{row['leaked']['num']} leaked, without them {figure(row['leaked']['without']['value'])}")
    return ", ".join([*parts, *([row["note"]] if row.get("note") else [])])


def figure(value: Any) -> str:
    """Four significant digits."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"
