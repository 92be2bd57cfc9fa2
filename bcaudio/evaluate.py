"""`bcaudio evaluate RECIPE`: asks the system, keeps what it said, scores it, and writes results.json."""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bcaudio.evaluation.bars import Bar, parse_bar
from bcaudio.evaluation.benchmark import Benchmark, Examples, NotRunError, Output, Result, read_outputs, write_outputs
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import Progress, read_json, stage_key, stage_record, versions, write_atomic
from bcaudio.text.normalize import NORMALIZER

KEYS = frozenset(
    [
        "extends",
        "name",
        "paper",
        "seed",
        "threads",
        "takes",
        "out",
        "results",
        "system",
        "benchmarks",
        "bars",
        "examples",
        "masks",
    ]
)
STAGE_FIELDS = (
    "status",
    "key",
    "git_commit",
    "seed",
    "steps",
    "attempts",
    "wall_s",
    "cpu_s",
    "peak_memory_mb",
    "trainable",
    "frozen",
    "metrics",
    "gate",
)


def evaluate(path: str, overrides: Sequence[str] = ()) -> int:
    """Run the benchmarks of a recipe; 0 when every bar holds, 1 when one does not.

    Recipe: `system` (a `_target_`), `benchmarks` (name -> `_target_`), `bars` (result key -> `"<= 0.05"`), `results` (a second
    place for results.json), `examples` (kept for the report per benchmark), `masks` (a `_target_` whose loss masks the report
    draws).

    A benchmark that was finished with the same recipe, system and stages is not asked again; its stored outputs are scored anew.
    One whose shards are not here is reported as not run, with the reason.

    Args:
        path: the recipe; overrides: dotted `key=value`.

    Raises:
        RecipeError: anything wrong in the recipe, before anything runs. ValueError: shards, outputs or bars that do not fit.
    """
    recipe = load_recipe(path, overrides)
    check_recipe(recipe, path, KEYS, {})
    benchmarks: dict[str, Benchmark] = {name: build(node, f"benchmarks.{name}") for name, node in recipe["benchmarks"].items()}
    bars = {key: parse_bar(text, f"{path}: bars.{key}") for key, text in (recipe.get("bars") or {}).items()}
    out = Path(recipe["out"])
    with stage_record(out, recipe) as record:
        torch.set_num_threads(int(recipe.get("threads") or torch.get_num_threads()))
        torch.manual_seed(int(recipe.get("seed") or 0))
        run = _Run(recipe, out, {name: taken["key"] for name, taken in record.takes.items()})
        results, not_run = run.all(benchmarks)
        report = _report(recipe, results, not_run, bars)
        text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
        write_atomic(out / "results.json", text)
        if recipe.get("results"):
            Path(recipe["results"]).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(Path(recipe["results"]), text)
        examples: dict[str, Any] = run.examples(benchmarks)
        if recipe.get("masks"):
            examples["masks"] = build(recipe["masks"], "masks").examples()
        write_atomic(out / "examples.json", json.dumps(examples, ensure_ascii=False) + "\n")
        record.add(metrics={key: entry["value"] for key, entry in results.items()}, gate=report["bars"], not_run=not_run)
    _print(report)
    return 0 if all(bar["holds"] for bar in report["bars"].values()) else 1


class _Run:
    """The asking: the system is built when the first benchmark needs it, outputs are kept per benchmark."""

    def __init__(self, recipe: Mapping[str, Any], out: Path, taken: Mapping[str, str]) -> None:
        self.recipe, self.out, self.taken = recipe, out, taken
        self.system: Any = None
        self.asked: str | None = None
        self.done = 0
        self.progress: Progress | None = None

    def all(self, benchmarks: Mapping[str, Benchmark]) -> tuple[dict[str, Result], dict[str, str]]:
        """Results by key, and why a benchmark was not run by its name."""
        results: dict[str, Result] = {}
        not_run: dict[str, str] = {}
        for number, (name, benchmark) in enumerate(benchmarks.items(), start=1):
            started = time.monotonic()
            self.progress = Progress(self.out, len(benchmarks))
            try:
                outputs, fresh = self.outputs(name, benchmark)
            except (NotRunError, _ShardsMissingError) as error:
                not_run[name] = str(error)
                print(f"[{number}/{len(benchmarks)}] {name}: not run: {error}", flush=True)
                continue
            scored = benchmark.score(outputs)
            twice = sorted(scored.keys() & results.keys())
            if twice:
                raise ValueError(
                    f"benchmarks.{name}: its result {twice[0]} is another benchmark's too; give one of them another name"
                )
            results |= scored
            self.done = number
            self.progress.step(number, **{key: entry["value"] for key, entry in scored.items() if entry["value"] is not None})
            how = f"{time.monotonic() - started:.0f} s" if fresh else "stored outputs"
            figures = ", ".join(f"{key} {_figure(entry['value'])}" for key, entry in scored.items())
            print(f"[{number}/{len(benchmarks)}] {name} ({len(outputs)} outputs, {how}): {figures}", flush=True)
        return results, not_run

    def outputs(self, name: str, benchmark: Benchmark) -> tuple[list[Output], bool]:
        """The outputs of a benchmark and whether they are new."""
        key = self.key(name)
        if self.adopt(name, key):
            return read_outputs(self.file(name)), False
        try:
            items = benchmark.items()
        except FileNotFoundError as error:
            raise _ShardsMissingError(str(error)) from error
        system = self.system_for(benchmark)
        folder = self.out / "outputs" / f"{name}.examples"
        shutil.rmtree(folder, ignore_errors=True)
        examples = Examples(folder, self.out, limit=int(self.recipe.get("examples", 4)))
        outputs: list[Output] = []
        for start in range(0, len(items), benchmark.batch_size):
            outputs += benchmark.ask(system, items[start : start + benchmark.batch_size], examples)
            assert self.progress is not None
            self.progress.step(self.done, asked=f"{name} {min(start + benchmark.batch_size, len(items))}/{len(items)}")
        write_outputs(self.file(name), outputs)
        write_atomic(
            self.mark(self.out, name), json.dumps({"key": key, "num_items": len(items), "examples": examples.found}) + "\n"
        )
        return outputs, True

    def key(self, name: str) -> str:
        """What the outputs of a benchmark depend on."""
        parts = {field: self.recipe.get(field) for field in ("system", "seed", "takes", "out")}
        return stage_key(
            {**parts, "benchmark": self.recipe["benchmarks"][name], "examples": self.recipe.get("examples")}, self.taken
        )

    def file(self, name: str) -> Path:
        return self.out / "outputs" / f"{name}.jsonl"

    @staticmethod
    def mark(out: Path, name: str) -> Path:
        return out / "outputs" / f"{name}.done.json"

    def adopt(self, name: str, key: str) -> bool:
        """Whether finished outputs of this key are here, or were in a folder that a change elsewhere in the recipe has set
        aside (then copied).
        """
        stale = sorted(self.out.parent.glob(f"{self.out.name}.stale-*"), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in (self.out, *stale):
            if read_json(self.mark(folder, name)).get("key") != key or not (folder / "outputs" / f"{name}.jsonl").is_file():
                continue
            if folder != self.out:
                shutil.copytree(folder / "outputs", self.out / "outputs", dirs_exist_ok=True, ignore=_all_but(name))
            return True
        return False

    def system_for(self, benchmark: Benchmark) -> Any:
        """The system, with the audio LLM in place that the benchmark asks for."""
        if self.system is None:
            self.system = build(self.recipe["system"], "system")
            self.asked = None
        if benchmark.audio_llm != self.asked:
            self.system.use_audio_llm(benchmark.audio_llm or self.recipe["system"]["audio_llm"])
            self.asked = benchmark.audio_llm
        return self.system

    def examples(self, benchmarks: Mapping[str, Benchmark]) -> dict[str, list[dict[str, Any]]]:
        """The examples of all benchmarks, in their order."""
        joined: dict[str, list[dict[str, Any]]] = {"audio": [], "mels": []}
        for name in benchmarks:
            for kind, found in read_json(self.mark(self.out, name)).get("examples", {}).items():
                joined[kind] += found
        return joined


class _ShardsMissingError(Exception):
    """The shards of a benchmark are not on this machine."""


def _all_but(name: str) -> Any:
    keep = (f"{name}.jsonl", f"{name}.done.json", f"{name}.examples")
    return lambda folder, names: [] if folder.endswith(".examples") else [entry for entry in names if entry not in keep]


def _report(
    recipe: Mapping[str, Any], results: Mapping[str, Result], not_run: Mapping[str, str], bars: Mapping[str, Bar]
) -> dict[str, Any]:
    """What results.json holds."""
    rows = {key: dict(entry) for key, entry in results.items()}
    judged = {}
    for key, bar in bars.items():
        value = results.get(key, {}).get("value")
        judged[key] = {"bar": bar.text, "limit": bar.limit(results), "value": value, "holds": bar.holds(value, results)}
        rows.setdefault(key, {"value": None, "note": "no benchmark gave this result"})
        rows[key] |= {"bar": bar.text, "holds": judged[key]["holds"]}
    rows |= {f"not run: {name}": {"value": None, "note": f"not run: {reason}"} for name, reason in not_run.items()}
    return {
        "results": rows,
        "bars": judged,
        "not_run": dict(not_run),
        "conditions": _conditions(recipe),
        "stages": {
            name: {field: value for field, value in read_json(Path(folder) / "stage.json").items() if field in STAGE_FIELDS}
            for name, folder in (recipe.get("takes") or {}).items()
        },
    }


def _conditions(recipe: Mapping[str, Any]) -> dict[str, Any]:
    scorers = {package: _version(package) for package in ("jiwer", "sacrebleu", "pocketsphinx", "torchmetrics")}
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "seed": recipe.get("seed"),
        "versions": {**versions(), **scorers},
        "machine": {
            "platform": platform.platform(),
            "processor": platform.processor(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
        "normalizer": NORMALIZER,
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def _figure(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _print(report: Mapping[str, Any]) -> None:
    for key, bar in report["bars"].items():
        print(f"{'holds' if bar['holds'] else 'FAILS'}  {key} = {_figure(bar['value'])}  (bar {bar['bar']})")
    for name, reason in report["not_run"].items():
        print(f"not run  {name}: {reason}")
    print(
        f"{len(report['results'])} results, {sum(bar['holds'] for bar in report['bars'].values())} of "
        f"{len(report['bars'])} bars hold",
        flush=True,
    )
