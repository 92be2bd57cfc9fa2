"""`python -m data_prep status`: how far a data folder is, and where its hours went."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bcaudio.recipe.record import read_json


def status(out: Path, console: Console | None = None) -> int:
    """Print the state of a data folder: shards done of those planned, hours kept, hours dropped by step and reason. Returns 0.

    Raises:
        FileNotFoundError: no data folder.
    """
    record, console = read_json(out / "stage.json"), console or Console(soft_wrap=True)
    if not record:
        raise FileNotFoundError(f"{out}: no stage.json, so no data recipe has run here; python -m data_prep run RECIPE out={out}")
    planned = len(list((out / "plan").glob("*.jsonl")))
    folders = [*sorted(out.glob("phase-*")), out]
    done = [len(list((folder / "done").glob("*.json"))) for folder in folders if (folder / "done").is_dir()]
    console.print(f"{out}: {record['status']}, attempt {record['attempts']}, {record['wall_s']:.0f} s")
    if reason := record.get("reason"):
        console.print(f"  {reason}", style="red", markup=False)
    for number, count in enumerate(done):
        console.print(f"  phase {number}: {count} of {planned} shards")
    for corpus, reason in record.get("left_out", {}).items():
        console.print(f"  left out: {corpus}: {reason}", style="yellow", markup=False)
    if "hours" in record:
        table = Table("corpus", "samples", "hours", title="kept")
        for name, hours in sorted(record["hours"].items()):
            table.add_row(name, str(record["num_samples"][name]), f"{hours:.3f}")
        console.print(table)
        _print_dropped(record, console)
    return 0


def _print_dropped(record: dict, console: Console) -> None:
    table = Table("step", "reason", "clips", "hours", title="dropped")
    for step, reasons in record["dropped"].items():
        for reason, entry in reasons.items():
            table.add_row(step, reason, str(entry["clips"]), f"{entry['hours']:.3f}")
    for corpus, reasons in record["dropped_when_listed"].items():
        for reason, count in reasons.items():
            table.add_row(f"listing {corpus}", reason, str(count), "-")
    if table.row_count:
        console.print(table)
