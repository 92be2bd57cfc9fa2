"""The report of a run: one HTML file that holds its numbers, curves, spectrograms, sounds and loss masks.

Recipe: `{name, out, takes: {evaluate: <folder with examples.json>}, run_dir}`; run_dir is the folder around `out` unless given.
Run: `bcaudio run PIPELINE --only report`
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from bcaudio.evaluation.report_data import ResultRow, Stage, is_number, read_part, read_results, read_stages
from bcaudio.evaluation.report_examples import example_bodies
from bcaudio.evaluation.report_page import card, page, result_cards, share_card
from bcaudio.evaluation.report_results import (
    RESULT_HEAD,
    RESULT_RIGHT,
    absent,
    codebook_section,
    conditions_section,
    curves_section,
    duration,
    frozen_unchanged,
    result_cells,
    results_section,
    stages_section,
)
from bcaudio.evaluation.report_table import Table
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import stage_record, write_atomic

KEYS = frozenset({"extends", "name", "paper", "seed", "threads", "takes", "out", "run_dir"})

# anchor, heading, what the reader sees
SECTIONS = (
    ("results", "Results", "Every rate with the counts it was made from, the bar it should meet, and whether it does."),
    (
        "stages",
        "Stages",
        "What each stage trained and what it left frozen, with its cost. Frozen tensors are hashed before and after.",
    ),
    ("curves", "Curves", "From each stage's logs/metrics.csv; many points are averaged in equal groups."),
    ("codebooks", "Codebooks", "Share of each codebook's entries in use. A level that falls towards zero has collapsed."),
    (
        "spectrograms",
        "Spectrograms",
        "Time runs to the right, low bands are below. Panels of a clip with the same bands share their colours.",
    ),
    (
        "sounds",
        "Sounds",
        "The original, the same sound made again from its codes, and spoken answers with what the auditor heard in them.",
    ),
    (
        "masks",
        "Loss masks",
        "One sample of each task, token by token. A filled chip is a token the model must predict and pays for.",
    ),
    ("conditions", "Conditions", "What one needs to know to get these numbers again."),
)


def report(path: str | Path, overrides: Sequence[str] = ()) -> int:
    """Writes `<out>/index.html` for a finished run and prints its path; 0 when written.

    Args:
        path: the report's recipe.
        overrides: dotted overrides, `run_dir=runs/micro`.

    Raises:
        RecipeError: a key that no report has. ValueError: neither run_dir nor `out` is named. FileNotFoundError: no such run_dir.
        Anything else that is absent is told in the report instead.
    """
    recipe = load_recipe(path, overrides)
    check_recipe(recipe, path, KEYS)
    if not recipe.get("run_dir") and not recipe.get("out"):
        raise ValueError(f"{path}: neither run_dir nor out is given; name the run's folder with run_dir=runs/micro")
    run_dir = Path(recipe.get("run_dir") or Path(recipe["out"]).parent)
    out = Path(recipe.get("out") or run_dir / "report")
    takes: Mapping[str, str] = recipe.get("takes") or {}
    evaluate = Path(takes.get("evaluate") or run_dir / "evaluate")
    if not run_dir.is_dir():
        raise FileNotFoundError(f"run_dir {run_dir}: no such folder; run the pipeline first, or name its folder with run_dir=...")
    with stage_record(out, recipe, takes):
        page = write_report(run_dir, evaluate, out)
    print(f"report: {page}")
    return 0


def write_report(run_dir: Path, evaluate: Path | None, out: Path) -> Path:
    """Gathers what the run left, renders it, and puts `<out>/index.html` in place in one move; returns its path."""
    try:
        rows, results_problem = read_results(run_dir), ""
    except ValueError as error:
        rows, results_problem = [], str(error)
    stages = [stage for stage in read_stages(run_dir) if stage.folder.resolve() != out.resolve()]
    page = render(run_dir, rows, results_problem, stages, evaluate)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / "index.html", page)
    return out / "index.html"


def render(run_dir: Path, rows: Sequence[ResultRow], results_problem: str, stages: Sequence[Stage], evaluate: Path | None) -> str:
    """The whole page. A part that cannot be had is a box with its reason; `results_problem` is the one of the results."""
    bodies = {
        "results": results_section(rows) if rows else absent(results_problem or "results.json holds no results"),
        "stages": stages_section(stages) if stages else absent("no folder of this run has a stage.json"),
        "curves": curves_section(stages),
        "codebooks": codebook_section(stages, rows),
        **example_bodies(evaluate),
        "conditions": conditions_section(stages, read_part(run_dir, "conditions")),
    }
    return page(
        run_dir.resolve().name,
        "report",
        f"{len(stages)} stages: {' → '.join(stage.name for stage in stages)}" if stages else "no stage has run",
        _cards(rows, stages),
        [(anchor, heading, lead, bodies[anchor]) for anchor, heading, lead in SECTIONS],
    )


def _cards(rows: Sequence[ResultRow], stages: Sequence[Stage]) -> list[str]:
    """The run at a glance: bars, failed items, stages, frozen proof, time, memory."""
    proofs = [same for stage in stages if (same := frozen_unchanged(stage.record.get("frozen") or {})) is not None]
    times = [stage.record["wall_s"] for stage in stages if is_number(stage.record.get("wall_s"))]
    memories = [stage.record["peak_memory_mb"] for stage in stages if is_number(stage.record.get("peak_memory_mb"))]
    return [
        *result_cards(rows),
        share_card([stage.record.get("status") == "done" for stage in stages], "stages done"),
        share_card(proofs, "stages kept their frozen bytes"),
        card(duration(sum(times)) if times else "–", "summed over stages"),
        card(f"{max(memories):,.0f} MB" if memories else "–", "highest peak memory"),
    ]


def results_table(run_dir: str | Path) -> str:
    """`<run_dir>/results.json` as plain text: key, value, interval, items, counts, bar, holds; a last line tells how many bars
    hold.

    Raises:
        FileNotFoundError: there is no results.json yet.
        ValueError: it cannot be read.
    """
    run_dir = Path(run_dir)
    if not (run_dir / "results.json").is_file():
        raise FileNotFoundError(f"{run_dir / 'results.json'}: no such file; the evaluate stage writes it, run the pipeline first")
    rows = read_results(run_dir)
    cells = [
        [_clip(cell, 16 if name == "value" else 64) for name, cell in zip(RESULT_HEAD, result_cells(row), strict=True)]
        for row in rows
    ]
    judged = [row.holds for row in rows if row.holds is not None]
    return f"{Table(RESULT_HEAD, cells, RESULT_RIGHT).text()}\n\n{sum(judged)} of {len(judged)} bars hold"


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
