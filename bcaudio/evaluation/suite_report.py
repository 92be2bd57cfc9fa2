"""The report of one evaluation: `report/index.html` and `results.md` in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bcaudio.evaluation.report_data import ResultRow, as_table, as_tables, is_number, read_part, read_results
from bcaudio.evaluation.report_examples import example_bodies
from bcaudio.evaluation.report_page import Section, card, page, result_cards
from bcaudio.evaluation.report_results import absent, conditions_section, results_section
from bcaudio.evaluation.report_table import Table, markdown_text
from bcaudio.evaluation.suite_report_tables import (
    Failures,
    charts,
    failed_table,
    leaked_table,
    normalizers_table,
    not_run_table,
    published_table,
    results_table,
    stamps_table,
)
from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import write_atomic

INTERVALS = "Intervals are 95 % bootstrap intervals over items."


class Part(NamedTuple):
    """A section that is one table; `none` is said where there is nothing to put into it."""

    anchor: str
    heading: str
    lead: str
    table: Table | None
    none: str


def write_suite_report(out: Path) -> Path:
    """Writes `<out>/report/index.html` and `<out>/results.md` from what an evaluation left in `out`; the path of the first.

    Raises:
        ValueError: results.json is absent or cannot be read. Anything else that is missing is told in the report.
    """
    rows, elsewhere = _published(out, read_results(out))
    parts = [
        Part(
            "published",
            "Published figures",
            "Theirs are quoted, not measured here: other items, normalisers or judges may lie behind them.",
            published_table([*rows, *elsewhere]),
            "the recipe names no published figures",
        ),
        Part(
            "normalizers",
            "Normalisers",
            "The same outputs under every normaliser that has rules for them; figures that none of them changes are left out.",
            normalizers_table(rows),
            "no figure here depends on the normaliser",
        ),
        Part("failed", "Failed items", "They are in no figure above.", failed_table(_failures(out)), "no item failed"),
        Part("not_run", "Not run", "", not_run_table(read_part(out, "not_run")), "every benchmark was run"),
        Part(
            "leaked",
            "Leaked items",
            "Items whose sound or text lies in the training shards.",
            leaked_table(rows),
            "no leaked item was found, or no check was asked for; the conditions tell which",
        ),
        Part(
            "stamps",
            "Stamps",
            "What could change a figure without its outputs changing.",
            stamps_table(rows),
            "no figure has one",
        ),
    ]
    (out / "report").mkdir(parents=True, exist_ok=True)
    write_atomic(out / "report" / "index.html", _html(out, rows, parts))
    write_atomic(out / "results.md", _markdown(out, rows, parts))
    return out / "report" / "index.html"


def _html(out: Path, rows: Sequence[ResultRow], parts: Sequence[Part]) -> str:
    first = results_section(rows) + charts(rows) if rows else absent("results.json holds no results")
    sections: list[Section] = [
        (
            "results",
            "Results",
            f"{INTERVALS} A diamond is somebody else's published figure; items are those scored, of all the benchmark has.",
            first,
        )
    ]
    sections += [
        (part.anchor, part.heading, part.lead, part.table.html() if part.table else f'<p class="muted">{part.none}.</p>')
        for part in parts
    ]
    bodies = example_bodies(out)
    for anchor, heading in (("spectrograms", "Spectrograms"), ("sounds", "Examples"), ("masks", "Loss masks")):
        if anchor == "sounds" or not bodies[anchor].startswith('<p class="absent">'):
            sections.append((anchor, heading, "", bodies[anchor]))
    sections.append(
        (
            "conditions",
            "Conditions",
            "What one needs to get these numbers again.",
            conditions_section([], read_part(out, "conditions")),
        )
    )
    measured = sum(is_number(row.value) for row in rows)
    cards = [card(f"{measured} of {len(rows)}", "results have a value", measured == len(rows)), *result_cards(rows)]
    return page(out.resolve().name, "evaluation", str(read_part(out, "conditions").get("model") or ""), cards, sections)


def _markdown(out: Path, rows: Sequence[ResultRow], parts: Sequence[Part]) -> str:
    table = results_table(rows)
    blocks = [f"# {markdown_text(out.resolve().name)}", INTERVALS, table.markdown() if table else "No results."]
    notes = [f"- `{row.key}`: {markdown_text(row.note)}" for row in rows if row.note]
    blocks += ["\n".join(notes)] if notes else []
    for part in parts:
        told = [part.lead, part.table.markdown()] if part.table else [f"{part.none[0].upper()}{part.none[1:]}."]
        blocks += [f"## {part.heading}", *filter(None, told)]
    return "\n\n".join(block.rstrip("\n") for block in blocks) + "\n"


def _failures(out: Path) -> Failures:
    """The failed items of results.json by (benchmark, reason)."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, entry in read_part(out, "failed").items():
        for id, reason in as_table(as_table(entry).get("items")).items():
            found.setdefault((name, str(reason)), []).append(id)
    return found


def _published(out: Path, rows: Sequence[ResultRow]) -> tuple[list[ResultRow], list[ResultRow]]:
    """The rows with the figures that results.json or else the recipe quotes, and rows of those quoted figures that we lack."""
    quoted = read_part(out, "published")
    if not quoted and (out / "recipe.yaml").is_file():
        try:
            quoted = as_table(load_recipe(out / "recipe.yaml").get("published"))
        except RecipeError:
            quoted = {}
    known = {row.key for row in rows}
    return (
        [replace(row, published=as_tables(quoted.get(row.key)) or row.published) for row in rows],
        [ResultRow(key, None, published=as_tables(theirs)) for key, theirs in quoted.items() if key not in known],
    )
