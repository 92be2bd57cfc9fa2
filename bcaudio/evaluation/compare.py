"""`bcaudio compare A B ...`: the same items answered by several systems, or scored in several ways."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bcaudio.evaluation.benchmark import Absent, Benchmark, Output, Scoring
from bcaudio.evaluation.bootstrap import PairedDifference, paired_difference
from bcaudio.evaluation.judge import ExactMatch
from bcaudio.evaluation.report_data import STAMPS, ResultRow, format_value, is_number, read_part, read_results
from bcaudio.evaluation.stored import OutputFiles
from bcaudio.evaluation.suite_report_tables import short_list
from bcaudio.metrics.counting import CountingMetric
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import write_atomic
from bcaudio.text.normalize import DEFAULT, normalizer


@dataclass(frozen=True)
class Figure:
    """How a key's figure is made: by which benchmark, and an empty metric that its items' rows can be added to."""

    benchmark: str
    metric: CountingMetric

    def of(self, rows: Mapping[str, Sequence[float]], ids: Sequence[str]) -> CountingMetric:
        """The metric of these items."""
        filled = self.metric.clone()
        filled.add_rows([rows[id] for id in ids], ids)
        return filled


class Evaluation:
    """What an evaluation left in its folder, read when it is wanted.

    Args:
        label: `A`, `B`, ...
        folder: as the user named it: an evaluation's own, or a run with one in `evaluate/` or `evaluations/`.

    Raises:
        FileNotFoundError: it holds none. ValueError: it holds several, or results that cannot be read.
    """

    def __init__(self, label: str, folder: str | Path) -> None:
        self.label, self.folder = label, find_evaluation(Path(folder))
        self.rows: dict[str, ResultRow] = {row.key: row for row in read_results(self.folder)}
        self.conditions = read_part(self.folder, "conditions")
        # a folder that was scored anew holds a link to the outputs
        self.root = (self.folder / "outputs").resolve().parent
        self._outputs: dict[str, dict[str, list[Output]]] = {}

    @cached_property
    def items(self) -> dict[str, dict[str, list[float]]]:
        """Key -> id -> row of statistics."""
        found: dict[str, dict[str, list[float]]] = {}
        path = self.folder / "items.jsonl"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                item = json.loads(line)
                found.setdefault(item["key"], {})[item["id"]] = item["row"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number}: cannot be read; `bcaudio score {self.folder}` writes it anew") from error
        return found

    @cached_property
    def benchmarks(self) -> dict[str, Benchmark]:
        """The benchmarks of its recipe that were run."""
        nodes = load_recipe(self.folder / "recipe.yaml")["benchmarks"]
        run = nodes.keys() - read_part(self.folder, "not_run").keys()
        return {name: build(node, f"benchmarks.{name}") for name, node in nodes.items() if name in run}

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """How every key is computed: by scoring the outputs once more, without any judge that could cost something; the rows
        that are compared are those of items.jsonl.
        """
        form = normalizer(str(self.conditions.get("normalizer") or DEFAULT))
        found = {}
        for name, benchmark in self.benchmarks.items():
            outputs = [out for outs in self.outputs(name).values() for out in outs]
            for key, metric in (benchmark.score(outputs, Scoring(form, ExactMatch(form))) if outputs else {}).items():
                if isinstance(metric, CountingMetric) and not isinstance(metric, Absent):
                    metric.reset()
                    found[key] = Figure(name, metric)
        return found

    def outputs(self, name: str) -> dict[str, list[Output]]:
        """The answered outputs of a benchmark by id."""
        if name not in self._outputs:
            by_id: dict[str, list[Output]] = {}
            for output in OutputFiles(self.folder, name).read().answered:
                by_id.setdefault(output["id"], []).append(output)
            self._outputs[name] = by_id
        return self._outputs[name]


@dataclass(frozen=True)
class Item:
    """An item whose row differs. `influence`: how the first side's figure would change with the second side's row for it."""

    id: str
    influence: float
    values: tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """One key of two evaluations, over the items that both have scored.

    `left_out` counts, per side, the items that only that side has scored; `warnings` are differences beside the systems'.
    """

    key: str
    first: Evaluation
    second: Evaluation
    values: tuple[float, float]
    paired: PairedDifference
    higher_is_better: bool | None
    left_out: tuple[int, int]
    warnings: tuple[str, ...] = ()
    items: list[Item] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """What the interval says about the second side."""
        if self.paired.low <= 0 <= self.paired.high:
            return "no difference shown"
        if self.higher_is_better is None:
            return "differs"
        return "better" if (self.paired.difference > 0) == self.higher_is_better else "worse"

    def content(self) -> dict[str, Any]:
        """As compare.json holds it."""
        return {
            "key": self.key,
            "pair": [self.first.label, self.second.label],
            "values": list(self.values),
            **asdict(self.paired),
            "verdict": self.verdict,
            "left_out": list(self.left_out),
            "warnings": list(self.warnings),
            "items": [asdict(item) for item in self.items],
        }


def compare(folders: Sequence[str | Path], to: str | Path | None = None) -> int:
    """Compares evaluations key by key with the first one; prints a table and writes compare.json, compare.md and compare.html.

    Args:
        folders: two or more, of evaluations or of runs with one.
        to: where the three files go; `compare` in the last evaluation's folder unless given.

    Returns:
        0.

    Raises:
        FileNotFoundError: a folder holds no evaluation, or one that was not scored item by item.
        ValueError: fewer than two folders; no key in common; files that cannot be read.
    """
    from bcaudio.evaluation.compare_page import comparison_table, html_page, markdown_page

    if len(folders) < 2:
        raise ValueError(f"compare: {len(folders)} folder given; name two or more evaluations")
    sides = [Evaluation(label_of(number), folder) for number, folder in enumerate(folders)]
    comparisons = [one for other in sides[1:] for one in compare_pair(sides[0], other)]
    notes = [note for other in sides[1:] for note in pair_notes(sides[0], other)]
    if not comparisons:
        raise ValueError(
            f"compare: {' and '.join(str(side.folder) for side in sides)} have no result in common; compare the same suite"
        )
    out = Path(to) if to is not None else sides[-1].folder / "compare"
    out.mkdir(parents=True, exist_ok=True)
    content = {
        "folders": {side.label: str(side.folder) for side in sides},
        "notes": notes,
        "results": [one.content() for one in comparisons],
    }
    write_atomic(out / "compare.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "compare.md", markdown_page(sides, comparisons, notes))
    write_atomic(out / "compare.html", html_page(sides, comparisons, notes))
    for side in sides:
        print(f"{side.label} = {side.folder}")
    print(comparison_table(comparisons).text())
    for warning in joined_warnings(comparisons):
        print(f"WARNING: {warning}")
    for note in notes:
        print(f"note: {note}")
    print(f"compared: {out / 'compare.html'}", flush=True)
    return 0


def compare_pair(first: Evaluation, second: Evaluation) -> Iterator[Comparison]:
    """Every key that both have rows for, in the order of the first."""
    for key, figure in first.figures.items():
        if key not in second.figures:
            continue
        a_rows, b_rows = first.items.get(key, {}), second.items.get(key, {})
        ids = [id for id in a_rows if id in b_rows]
        if not ids:
            continue
        a, b = figure.of(a_rows, ids), second.figures[key].of(b_rows, ids)
        left_out = len(a_rows) - len(ids), len(b_rows) - len(ids)
        yield Comparison(
            key,
            first,
            second,
            (float(a.value()), float(b.value())),
            paired_difference(b, a),
            a.higher_is_better,
            left_out,
            tuple(_warnings(key, first, second, left_out)),
            differing_items(a, b),
        )


def differing_items(a: CountingMetric, b: CountingMetric) -> list[Item]:
    """The items (in the same order in both) whose rows differ, those first that move the figure most."""
    before, after = a.rows.astype(np.float64), b.rows.astype(np.float64)
    total = before.sum(axis=0)
    influence = np.nan_to_num(a.value_of(total - before + after) - a.value_of(total))
    alone = a.value_of(before), b.value_of(after)
    places = np.flatnonzero((before != after).any(axis=1))
    order = sorted(places.tolist(), key=lambda n: (-abs(influence[n]), a.ids[n]))
    return [Item(a.ids[n], float(influence[n]), (float(alone[0][n]), float(alone[1][n]))) for n in order]


def _warnings(key: str, first: Evaluation, second: Evaluation, left_out: tuple[int, int]) -> Iterator[str]:
    """What else than the systems' answers could have made a difference."""
    a, b = first.rows.get(key, ResultRow(key, None)), second.rows.get(key, ResultRow(key, None))
    for name in STAMPS:
        if a.stamps.get(name) != b.stamps.get(name):
            told = f"{format_value(a.stamps.get(name))} in {first.label}, {format_value(b.stamps.get(name))} in {second.label}"
            yield f"another {name}: {told}"
    if any(left_out):
        yield f"other items: left out are {left_out[0]} that only {first.label} has scored, {left_out[1]} only {second.label}"


def joined_warnings(comparisons: Sequence[Comparison]) -> list[str]:
    """Every warning once, with the keys that it is about."""
    keys: dict[str, list[str]] = {}
    for one in comparisons:
        for warning in one.warnings:
            keys.setdefault(warning, []).append(one.key)
    return [f"{warning} ({short_list(names)})" for warning, names in keys.items()]


def pair_notes(first: Evaluation, second: Evaluation) -> Iterator[str]:
    """What is worth knowing of the whole pair: other seeds, results that only one side has."""
    if first.conditions.get("seed") != second.conditions.get("seed"):
        yield f"seed {first.conditions.get('seed')} in {first.label}, {second.conditions.get('seed')} in {second.label}"
    for one, other in ((first, second), (second, first)):
        lacking = [key for key, row in one.rows.items() if is_number(row.value) and other.rows.get(key, row).value is None]
        lacking += [key for key, row in one.rows.items() if is_number(row.value) and key not in other.rows]
        if lacking:
            yield f"only in {one.label}: {', '.join(lacking)}"


def label_of(number: int) -> str:
    """A, B, ..., Z, then S27, S28, ..."""
    return chr(ord("A") + number) if number < 26 else f"S{number + 1}"


def find_evaluation(folder: Path) -> Path:
    """The evaluation's own folder.

    Raises:
        FileNotFoundError: there is none, or it was not scored item by item. ValueError: there are several.
    """
    inside = [folder, folder / "evaluate", *sorted((folder / "evaluations").glob("*"))]
    found = [path for path in inside if (path / "results.json").is_file() and (path / "recipe.yaml").is_file()]
    if folder in found:
        found = [folder]
    if not found:
        raise FileNotFoundError(
            f"{folder}: no evaluation here; name the folder that `bcaudio evaluate` or `bcaudio score` wrote (results.json and "
            "recipe.yaml), or a run with one in evaluate/ or evaluations/"
        )
    if len(found) > 1:
        raise ValueError(f"{folder}: holds several evaluations; name one of {', '.join(map(str, found))}")
    if not (found[0] / "items.jsonl").is_file():
        raise FileNotFoundError(f"{found[0] / 'items.jsonl'}: no such file; `bcaudio score {found[0]}` writes it")
    return found[0]
