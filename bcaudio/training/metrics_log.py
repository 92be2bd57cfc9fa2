"""One `logs/metrics.csv` per stage, over all its attempts.

Lightning's CSVLogger deletes the files of an earlier attempt in its folder, so a stage that was cut off would lose the first part
of its curves. The file is therefore renamed before the logger is made, and joined with the new one after training.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from bcaudio.recipe.record import write_atomic


def set_metrics_aside(out: Path) -> list[Path]:
    """Rename the metrics of an attempt that was cut off, before the logger deletes them.

    Args:
        out: stage folder.

    Returns:
        `<out>/logs/metrics.attempt-<n>.csv` of all earlier attempts, oldest first; empty for a first attempt.
    """
    metrics = out / "logs" / "metrics.csv"
    earlier = sorted(metrics.parent.glob("metrics.attempt-*.csv"), key=_attempt)
    if metrics.is_file():
        number = _attempt(earlier[-1]) + 1 if earlier else 0
        earlier.append(metrics.rename(metrics.with_name(f"metrics.attempt-{number}.csv")))
    return earlier


def join_metrics(out: Path, earlier: Sequence[Path]) -> None:
    """Write one `<out>/logs/metrics.csv` over all attempts and delete the files of the earlier ones.

    An attempt goes on from a checkpoint, so its first steps may have been done before: of each attempt only the steps before the
    next one began are kept. A value that an attempt did not log is left empty; a row that was cut off while it was written is
    left out.

    Args:
        out: stage folder.
        earlier: what set_metrics_aside returned.
    """
    metrics = out / "logs" / "metrics.csv"
    rows: list[dict[str, str]] = []
    for file in [*earlier, metrics]:
        if file.is_file():
            with open(file, newline="", encoding="utf-8") as stream:
                newer = [row for row in csv.DictReader(stream) if (row.get("step") or "").isdecimal()]
            if newer:
                first = min(int(row["step"]) for row in newer)
                rows = [row for row in rows if int(row["step"]) < first] + newer
    joined = io.StringIO(newline="")
    writer = csv.DictWriter(joined, sorted({name for row in rows for name in row}), restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(metrics, joined.getvalue())
    for file in earlier:
        file.unlink()


def _attempt(file: Path) -> int:
    return int(file.stem.rpartition("-")[2])
