"""`bcaudio evaluate RECIPE [--model SPEC]`: asks the system, keeps what it said, scores it, and writes results.json."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from bcaudio.distributed import rank
from bcaudio.evaluation.benchmark import Benchmark, Item, NotRunError
from bcaudio.evaluation.contamination import find_leaks, training_shards
from bcaudio.evaluation.inferring import Inference, Plan
from bcaudio.evaluation.model_choice import choose_model
from bcaudio.evaluation.scoring import Report, figure, print_report, score_benchmark, scoring_of
from bcaudio.evaluation.suite_report import write_suite_report
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import StageRecord, read_json, stage_record, write_atomic

KEYS = frozenset(
    {"extends", "name", "paper", "seed", "threads", "takes", "out", "results", "model", "data_root"}
    | {"system", "benchmarks", "normalizer", "judge", "contamination", "bars", "published", "examples", "masks", "settings"}
)
WAIT = timedelta(days=1)  # for the slowest rank; a rank that has ended is noticed at once


def evaluate(path: str | Path, overrides: Sequence[str] = (), model: str | None = None) -> int:
    """Run the benchmarks of a recipe; 0 when every bar holds, 1 when one does not or no benchmark was run.

    Recipe: `system` (a `_target_`), `benchmarks` (name -> `_target_`), `bars` (result key -> `"<= 0.05"`), `normalizer`, `judge`,
    `contamination` (`training`: globs of shards, or "run"), `published` (result key -> other people's figures), `results` (a
    second place for results.json), `examples` (kept for the report per benchmark), `masks` (a `_target_` whose loss masks the
    report draws), `data_root` and `settings` (values that other keys refer to).

    A benchmark that was finished with the same recipe, system, stages and items is not asked again; its stored outputs are scored
    anew. One that was cut off goes on. One whose data are not here is reported as not run, with the reason. Under torchrun every
    rank asks its share.

    Args:
        path: the recipe; overrides: dotted `key=value`.
        model: run folder, folder of published weights or `openai:URL`, in place of the recipe's system.

    Raises:
        RecipeError: anything wrong in the recipe, before anything runs. ValueError: items, outputs or bars that do not fit.
    """
    not_given: dict[str, str] = {}
    stamp = None
    if model is None:
        recipe = load_recipe(path, overrides)
    else:
        recipe, not_given, stamp = choose_model(path, overrides, model)
    check_recipe(recipe, path, KEYS, {})
    if not recipe.get("system"):
        raise ValueError(f"{path}: names no system; give --model RUN, a folder of published weights or openai:URL")
    benchmarks: dict[str, Benchmark] = {name: build(node, f"benchmarks.{name}") for name, node in recipe["benchmarks"].items()}
    report = Report(recipe, scoring_of(recipe))
    report.not_run = not_given
    with _ranks(), stage_record(recipe["out"], recipe) as record:
        torch.set_num_threads(int(recipe.get("threads") or torch.get_num_threads()))
        torch.manual_seed(int(recipe.get("seed") or 0))
        _run(recipe, benchmarks, report, record, stamp)
        if rank():
            return 0
        content = report.write(record.out)
        if recipe.get("results"):
            Path(recipe["results"]).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(Path(recipe["results"]), (record.out / "results.json").read_text(encoding="utf-8"))
        write_atomic(record.out / "examples.json", json.dumps(_examples(recipe, record.out), ensure_ascii=False) + "\n")
        write_suite_report(record.out)
        metrics = {key: entry["value"] for key, entry in report.results.items()}
        record.add(metrics=metrics, gate=content["bars"], not_run=report.not_run)
    print_report(content)
    return 0 if report.results and all(bar["holds"] for bar in content["bars"].values()) else 1


def _run(recipe: Mapping[str, Any], benchmarks: Mapping[str, Benchmark], report: Report, record: StageRecord, stamp: Any) -> None:
    """Asks and scores every benchmark; rank 0 alone scores."""
    inference = Inference(recipe, record.out, {name: taken["key"] for name, taken in record.takes.items()}, stamp)
    plans, absent = inference.plan(benchmarks)
    report.not_run |= absent
    leaks = _leaks(recipe, plans, record.out) if recipe.get("contamination") and rank() == 0 else {}
    for number, name in enumerate(plans, start=1):
        place, started = f"[{number}/{len(plans)}]", time.monotonic()
        try:
            stored = inference.outputs(name, benchmarks[name], plans[name], place)
        except NotRunError as error:
            report.not_run[name] = str(error)
            continue
        if stored is None:
            continue
        scored = score_benchmark(name, benchmarks[name], stored, report.scoring, list(leaks.get(name, ())))
        report.add(name, stored, scored)
        how = "stored outputs" if plans[name].done else f"{time.monotonic() - started:.0f} s"
        figures = ", ".join(f"{key} {figure(entry['value'])}" for key, entry in scored.results.items())
        print(f"{place} {name} ({len(stored.outputs)} outputs, {how}): {figures}", flush=True)


def _leaks(recipe: Mapping[str, Any], plans: Mapping[str, Plan], out: Path) -> dict[str, dict[str, Any]]:
    """Where items lie in the training shards, by benchmark and id; kept in `leaks.json`."""
    options = dict(recipe["contamination"])
    training = options.pop("training", "run")
    if training == "run":
        folders = [recipe["model"]] if recipe.get("model") else list((recipe.get("takes") or {}).values())
        training = sorted({path for folder in folders if Path(folder).is_dir() for path in training_shards(folder)})
    if not training:
        raise ValueError("contamination.training: the model tells no training shards; give their globs in place of run")
    key = [training, options, {name: plan.digest for name, plan in plans.items()}]
    before = read_json(out / "leaks.json")
    if before.get("key") == key:
        return before["leaks"]
    groups: list[dict[str, Item]] = []  # the same id may stand for other items in another benchmark
    for plan in plans.values():
        for item in plan.items or ():
            group = next((group for group in groups if group.setdefault(item.id, item).sample.text == item.sample.text), None)
            if group is None:
                groups.append({item.id: item})
    found = [find_leaks(list(group.values()), training, cache=out / "fingerprints", **options) for group in groups]
    leaks = {
        name: {
            item.id: asdict(leak[item.id])
            for item in plan.items or ()
            for group, leak in zip(groups, found, strict=True)
            if item.id in leak and group[item.id].sample.text == item.sample.text
        }
        for name, plan in plans.items()
    }
    write_atomic(out / "leaks.json", json.dumps({"key": key, "leaks": leaks}, ensure_ascii=False, indent=1) + "\n")
    return leaks


def _examples(recipe: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The examples of all benchmarks in their order, and the masks."""
    joined: dict[str, Any] = {"audio": [], "mels": []}
    for name in recipe["benchmarks"]:
        for kind, found in read_json(out / "outputs" / f"{name}.done.json").get("examples", {}).items():
            joined[kind] += found
    if recipe.get("masks"):
        joined["masks"] = build(recipe["masks"], "masks").examples()
    return joined


@contextmanager
def _ranks() -> Iterator[None]:
    """The process group that torchrun's environment speaks of; nothing for a single process."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized()
    if torch.cuda.is_available() and not alone:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if not alone:
        dist.init_process_group("gloo", timeout=WAIT)
    try:
        yield
    finally:
        if not alone:
            dist.destroy_process_group()
