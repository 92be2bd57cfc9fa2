"""The tables of an evaluation's report. Each is built once and written as HTML and as Markdown; None where it would be empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcaudio.evaluation.report_charts import Bar, bar_chart
from bcaudio.evaluation.report_data import ResultRow, as_table, format_value, is_number
from bcaudio.evaluation.report_results import RESULT_HEAD, RESULT_RIGHT, result_cells
from bcaudio.evaluation.report_table import Table

IDS_SHOWN, REASONS_SHOWN = 5, 50
KINDS = frozenset(
    [
        "wer",
        "cer",
        "mer",
        "bleu",
        "chrf",
        "accuracy",
        "mae",
        "l1",
        "l2",
        "lsd",
        "perplexity",
        "dnsmos",
        "similarity",
        "s",
        "factor",
    ]
)  # last words of the names of figures

Failures = Mapping[tuple[str, str], Sequence[str]]  # (benchmark, reason) -> ids


def results_table(rows: Sequence[ResultRow]) -> Table | None:
    """Every result with its interval, its items and its bar."""
    return Table(RESULT_HEAD, [result_cells(row) for row in rows], RESULT_RIGHT) if rows else None


def published_table(rows: Sequence[ResultRow]) -> Table | None:
    """Other people's figures beside ours, as theirs, with the conditions they name."""
    cells = [
        [
            row.key,
            format_value(row.value),
            row.interval_text,
            format_value(theirs.get("value")),
            *(format_value(theirs.get(name) or "not told") for name in ("who", "where", "conditions")),
        ]
        for row in rows
        for theirs in row.published
    ]
    head = ("key", "ours", "ours, 95 % interval", "theirs", "who", "where", "their conditions")
    return Table(head, cells, frozenset({1, 2, 3})) if cells else None


def normalizers_table(rows: Sequence[ResultRow]) -> Table | None:
    """What each normaliser would have given from the same outputs."""
    told = [row for row in rows if row.normalizers]
    names = list(dict.fromkeys(name for row in told for name in row.normalizers))
    cells = [
        [row.key, format_value(row.stamps.get("normalizer")), *(format_value(row.normalizers.get(name)) for name in names)]
        for row in told
    ]
    return Table(("key", "scored with", *names), cells, frozenset(range(2, 2 + len(names)))) if cells else None


def failed_table(failures: Failures) -> Table | None:
    """Items without an answer, by reason; they are in no figure."""
    groups = sorted(failures.items(), key=lambda group: -len(group[1]))
    cells = [[name, f"{len(ids):,}", reason, short_list(ids)] for (name, reason), ids in groups[:REASONS_SHOWN]]
    if left := groups[REASONS_SHOWN:]:
        cells.append(["…", f"{sum(len(ids) for _, ids in left):,}", f"{len(left)} more reasons; they are in outputs/*.jsonl", ""])
    return Table(("benchmark", "items", "reason", "which"), cells, frozenset({1})) if cells else None


def not_run_table(not_run: Mapping[str, Any]) -> Table | None:
    """Benchmarks of the suite that gave no figure at all."""
    return Table(("not run", "why"), [[name, format_value(why)] for name, why in not_run.items()]) if not_run else None


def leaked_table(rows: Sequence[ResultRow]) -> Table | None:
    """Figures with and without the items that the training data holds."""
    cells = []
    for row in rows:
        if not row.leaked:
            continue
        without = as_table(row.leaked.get("without"))
        ids = row.leaked.get("ids")
        ids = list(map(str, ids)) if isinstance(ids, list) else []
        interval = without.get("ci")
        shown = " – ".join(map(format_value, interval)) if isinstance(interval, list) and all(map(is_number, interval)) else ""
        cells.append(
            [row.key, format_value(row.value), f"{len(ids):,}", format_value(without.get("value")), shown, short_list(ids)]
        )
    head = ("key", "with all items", "leaked items", "without them", "95 % interval", "which")
    return Table(head, cells, frozenset({1, 2, 3, 4})) if cells else None


def stamps_table(rows: Sequence[ResultRow]) -> Table | None:
    """Everything that could change a figure without its outputs changing, and which figures it touches."""
    users: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for kind, stamp in row.stamps.items():
            users.setdefault((kind, format_value(stamp)), []).append(row.key)
    cells = [[kind, stamp, short_list(keys)] for (kind, stamp), keys in users.items()]
    return Table(("stamp", "value", "of"), cells) if cells else None


def charts(rows: Sequence[ResultRow]) -> str:
    """One bar chart per kind of figure (`wer`, `accuracy`, ...), for only like may stand beside like."""
    kinds: dict[str, list[ResultRow]] = {}
    for row in rows:
        if is_number(row.value):
            kinds.setdefault(kind_of(row.key), []).append(row)
    figures = []
    for kind, members in kinds.items():
        bars = [
            Bar(
                row.key,
                float(row.value),
                row.interval,
                [float(one["value"]) for one in row.published if is_number(one.get("value"))],
            )
            for row in members
            if is_number(row.value)
        ]
        figures.append(bar_chart(kind, bars))
    return "".join(figures)


def kind_of(key: str) -> str:
    """What a key's figure is: `wer` of `tts.en.ground_truth_wer`, `mae` of `reconstruction.mel_mae.levels_8`."""
    last = [part.split("_")[-1] for part in key.split(".")]
    return next((word for word in reversed(last) if word in KINDS), last[-1])


def short_list(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - IDS_SHOWN:,} more" if len(names) > IDS_SHOWN else ""
    return ", ".join(names[:IDS_SHOWN]) + more
