"""What the report reads from a run folder. Whatever is absent or broken becomes a reason in words, never a crash.

`results.json` is `{"results": {key: entry}, "bars": {key: {"limit": x}}, "conditions": {...}}`, or the entries alone.
Keys are dotted or nested. An entry is a number or `{"value": x, "ci": [low, high], "num_items": 120, "num_scored": 118,
"normalizer": "basic-1", "normalizers": {name: value}, "signature": "...", "judge": {...}, "bar": "<= 0.05", "holds": true,
"note": "...", ...}`; what else it holds are its counts.
"""

import csv
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
}
STAMPS = ("normalizer", "signature", "judge", "recogniser", "recognizer")  # what a figure was made with
_ENTRY_FIELDS = {"value", "counts", "op", "bar", "holds", "note", "name", "key", *STAMPS} | {
    *("ci", "num_items", "num_scored", "num_failed", "normalizers", "published", "leaked", "higher_is_better")
}

Series = dict[str, list[tuple[float, float]]]  # name -> (step, value) in the order of steps


@dataclass(frozen=True)
class ResultRow:
    """One measured number. `holds` is None where no bar is set; `value` is None where it could not be measured.

    `interval` is (low, high) at 95 %; `normalizers` what each normaliser would have given; `stamps` what it was made with;
    `published` other people's figures of the same kind; `leaked` the figure without the items that training has seen.
    """

    key: str
    value: float | str | None
    counts: str = ""
    bar: str = ""
    holds: bool | None = None
    note: str = ""
    interval: tuple[float, float] | None = None
    num_items: int | None = None
    num_scored: int | None = None
    num_failed: int | None = None
    normalizers: Mapping[str, Any] = field(default_factory=dict)
    stamps: Mapping[str, Any] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()
    leaked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def interval_text(self) -> str:
        """`0.0023 – 0.0121`, or nothing."""
        return " – ".join(map(format_value, self.interval)) if self.interval else ""

    @property
    def scored_text(self) -> str:
        """`120`, or `118 of 120`: never fewer than the benchmark has without saying so."""
        if self.num_items is None or self.num_scored is None:
            return ""
        return f"{self.num_scored:,}" if self.num_scored == self.num_items else f"{self.num_scored:,} of {self.num_items:,}"

    @property
    def items_text(self) -> str:
        """`118 of 120 (2 failed)`."""
        return self.scored_text + (f" ({self.num_failed:,} failed)" if self.num_failed else "")


@dataclass(frozen=True)
class Stage:
    """One stage folder: its done-record, its curves, and what could not be read of them."""

    name: str
    folder: Path
    record: Mapping[str, Any] = field(default_factory=dict)
    series: Series = field(default_factory=dict)
    problem: str = ""


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises ValueError (also for a missing file) with a reason fit for the report."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.name} is not in {path.parent.name}/") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.parent.name}/{path.name} cannot be read: {error}") from error


def read_results(run_dir: Path) -> list[ResultRow]:
    """The rows of `<run_dir>/results.json` in the order of the file. Raises ValueError when it cannot be read."""
    content = read_json(run_dir / "results.json")
    results = content.get("results", content) if isinstance(content, Mapping) else content
    if not isinstance(results, Mapping):
        raise ValueError(f"{run_dir.name}/results.json holds a {type(results).__name__}, not a table of results")
    bars = as_table(content.get("bars"))
    limits = {key: as_table(bar).get("limit") for key, bar in bars.items()}
    return [_with_limit(row, limits.get(row.key)) for row in _rows(results, "")]


def _with_limit(row: ResultRow, limit: Any) -> ResultRow:
    """A bar that is told by another result's name also tells its number."""
    named = re.search(r"[A-Za-z]\w*\.", row.bar)
    return replace(row, bar=f"{row.bar} = {limit:.4g}") if named and is_number(limit) else row


def read_part(run_dir: Path, name: str) -> Mapping[str, Any]:
    """A table of `<run_dir>/results.json` beside the results (`conditions`, `not_run`, ...); {} where it has none."""
    try:
        return as_table(as_table(read_json(run_dir / "results.json")).get(name))
    except ValueError:
        return {}


def _rows(node: Mapping[str, Any], prefix: str) -> Iterator[ResultRow]:
    for name, entry in node.items():
        key = f"{prefix}{name}"
        if isinstance(entry, Mapping) and "value" not in entry:
            yield from _rows(entry, key + ".")
        elif isinstance(entry, Mapping):
            yield _row(key, entry)
        elif isinstance(entry, int | float | str | None):
            yield _row(key, {"value": entry})


def _row(key: str, entry: Mapping[str, Any]) -> ResultRow:
    value, counts, bar = entry.get("value"), entry.get("counts"), entry.get("bar")
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if not isinstance(counts, Mapping):
        counts = {"num": counts} if counts is not None else {k: v for k, v in entry.items() if k not in _ENTRY_FIELDS}
    counted = ", ".join(f"{format_value(number)} {name.removeprefix('num_')}" for name, number in counts.items())
    op = str(entry.get("op", ""))
    written = re.fullmatch(r"\s*(<=|>=|==|<|>)\s*(\S+)\s*", bar) if isinstance(bar, str) else None
    if written:
        op, bar = written[1], _number(written[2])
    holds = entry.get("holds")
    if holds is None and op in OPERATORS and is_number(value) and is_number(bar):
        holds = OPERATORS[op](value, bar)
    bar_text = "" if bar is None else f"{op} {f'{bar:.4g}' if is_number(bar) else bar}".strip()
    interval = entry.get("ci")
    return ResultRow(
        key,
        value,
        counted,
        bar_text,
        None if holds is None else bool(holds),
        str(entry.get("note") or ""),
        (interval[0], interval[1])
        if isinstance(interval, list) and len(interval) == 2 and all(map(is_number, interval))
        else None,
        *(int(entry[name]) if is_number(entry.get(name)) else None for name in ("num_items", "num_scored", "num_failed")),
        as_table(entry.get("normalizers")),
        {name: entry[name] for name in STAMPS if entry.get(name)},
        as_tables(entry.get("published")),
        as_table(entry.get("leaked")),
    )


def as_table(value: Any) -> Mapping[str, Any]:
    """The value itself if it is a table, else {}."""
    return value if isinstance(value, Mapping) else {}


def as_tables(value: Any) -> list[Mapping[str, Any]]:
    """The tables of a list; anything else in it is dropped. [] for no list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def is_number(value: Any) -> bool:
    """True for a finite int or float; bool is no number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def format_value(value: Any) -> str:
    """Numbers with thousands separators and at most four digits after the point; tables and lists joined; all else as text."""
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {format_value(inner)}" for name, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(inner) for inner in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}"
    digits = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}"


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def read_stages(run_dir: Path) -> list[Stage]:
    """Every `<run_dir>/<stage>/stage.json`, in the order in which the stages ended; folders set aside as stale are left out."""
    records = sorted(run_dir.glob("*/stage.json"), key=lambda path: (path.stat().st_mtime_ns, path.parent.name))
    return [_stage(path.parent) for path in records if ".stale-" not in path.parent.name]


def _stage(folder: Path) -> Stage:
    problems = []
    record: Any = {}
    series: Series = {}
    try:
        record = read_json(folder / "stage.json")
        if not isinstance(record, Mapping):
            problems.append(f"{folder.name}/stage.json holds a {type(record).__name__}, not a record")
            record = {}
    except ValueError as error:
        problems.append(str(error))
    try:
        series = read_series(folder / "logs" / "metrics.csv")
    except ValueError as error:
        problems.append(str(error))
    return Stage(folder.name, folder, record, series, "; ".join(problems))


def read_series(path: Path) -> Series:
    """Curves of a `metrics.csv` as Lightning's CSVLogger writes it: a `step` column, gaps where nothing was logged.

    A step logged twice (a resumed run) keeps its last value. {} when the file is absent: not every stage trains.
    Raises ValueError when there is a file that cannot be read.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[float, float]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                step = _finite(row.get("step"))
                for name, text in row.items():
                    value = _finite(text)
                    if name and name not in ("step", "epoch") and value is not None:
                        points.setdefault(name, {})[number if step is None else step] = value
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.parent.parent.name}/logs/{path.name} cannot be read: {error}") from error
    return {name: sorted(values.items()) for name, values in points.items()}


def _finite(text: Any) -> float | None:
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def read_examples(folder: Path | None) -> tuple[Mapping[str, Any], str]:
    """`<folder>/examples.json` and, where it cannot be had, the reason."""
    if folder is None:
        return {}, "the recipe takes no evaluate folder"
    try:
        content = read_json(folder / "examples.json")
    except ValueError as error:
        return {}, str(error)
    return (content, "") if isinstance(content, Mapping) else ({}, f"{folder.name}/examples.json is not a table")


def file_inside(folder: Path, name: Any) -> Path:
    """The file an example names. Raises ValueError when it is absent or lies outside the folder."""
    path = (folder / str(name)).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{name} lies outside {folder.name}/")
    if not path.is_file():
        raise ValueError(f"{name} is not in {folder.name}/")
    return path
