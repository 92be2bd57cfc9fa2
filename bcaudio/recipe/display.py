"""What a running or finished pipeline looks like: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from bcaudio.recipe.graph import Pipeline, stage_state
from bcaudio.recipe.record import read_json

STYLES = {"done": "green", "running": "cyan", "failed": "red", "stale": "yellow", "cut off": "yellow"}


@dataclass(frozen=True)
class Row:
    """One stage as shown. `elapsed_s` None: not started."""

    stage: str
    state: str
    steps: str = ""
    numbers: str = ""
    elapsed_s: float | None = None


class Display:
    """Shows rows and says lines.

    Args:
        rows: makes the present rows.
        console: a terminal gets one live table; anything else gets a line per event, and one per running stage every `every_s`
            seconds.
    """

    def __init__(self, rows: Callable[[], Iterable[Row]], console: Console | None = None, every_s: float = 15.0) -> None:
        self.rows, self.console, self.every_s = rows, console or Console(highlight=False, soft_wrap=True), every_s
        # no thread of its own: the scheduler forks
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._shown = time.monotonic()

    def __enter__(self) -> Display:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        if self.live:
            self.live.update(progress_table(self.rows()), refresh=True)
            self.live.__exit__(*details)

    def say(self, line: str) -> None:
        """One event, kept above the table."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def refresh(self) -> None:
        """Call often; shows what is due."""
        now = time.monotonic()
        if self.live and now - self._shown >= 0.5:
            self._shown = now
            self.live.update(progress_table(self.rows()), refresh=True)
        elif not self.live and now - self._shown >= self.every_s:
            self._shown = now
            for row in self.rows():
                if row.state == "running":
                    parts = (f"{row.stage}: running", row.steps, row.numbers, duration(row.elapsed_s))
                    self.say("  ".join(part for part in parts if part))


def progress_table(rows: Iterable[Row]) -> Table:
    """Stage, state, steps, numbers, elapsed time."""
    table = Table("stage", "state")
    table.add_column("step", justify="right")
    table.add_column("numbers")
    table.add_column("elapsed", justify="right")
    for row in rows:
        table.add_row(row.stage, _coloured(row.state), row.steps, escape(row.numbers), duration(row.elapsed_s))
    return table


def status_table(pipeline: Pipeline) -> Table:
    """Every stage with its state, steps, wall time, peak memory, metrics, and why it is stale."""
    table = Table("stage", "state", title=f"{pipeline.name} in {pipeline.run_dir}")
    for column in ("step", "wall", "peak MB"):
        table.add_column(column, justify="right")
    table.add_column("metrics or reason", overflow="fold")
    for stage in pipeline.stages.values():
        state = stage_state(stage)
        steps, _ = progress_of(read_json(stage.folder / "progress.json"))
        peak = state.record.get("peak_memory_mb")
        metrics = state.record.get("metrics")
        remark = state.reason or (numbers_text(metrics) if isinstance(metrics, Mapping) else "")
        table.add_row(
            stage.name,
            _coloured(state.word),
            steps,
            duration(state.record.get("wall_s")),
            f"{peak:.0f}" if peak else "",
            escape(remark),
        )
    return table


def progress_of(content: Mapping[str, Any]) -> tuple[str, str]:
    """(`120/600`, `loss 0.31`) of a progress.json; empty texts where there is none."""
    if "step" not in content:
        return "", ""
    return f"{content['step']}/{content.get('total', '?')}", numbers_text(content.get("numbers") or {})


def numbers_text(numbers: Mapping[str, Any], limit: int = 4) -> str:
    """The first few numbers as `name value`."""
    shown = [(name, value) for name, value in numbers.items() if isinstance(value, int | float | str)][:limit]
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown)


def duration(seconds: float | None) -> str:
    """`7 s`, `3:05`, `2:03:05`; nothing for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def _coloured(state: str) -> str:
    style = STYLES.get(state.split(" (")[0])
    return f"[{style}]{escape(state)}[/]" if style else escape(state)
