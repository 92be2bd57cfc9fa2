"""Whether a checkpoint holds exactly the tensors of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Column, Table

from bcaudio.pretrained.names import Shaped

MAX_ROWS = 40


def key_problems(found: Mapping[str, Shaped], expected: Mapping[str, Shaped]) -> list[tuple[str, str, str, str]]:
    """(missing | unexpected | reshaped, name, shape in the file, shape in the model) of every tensor that does not fit."""
    rows = [("missing", name, "-", _shape(expected[name])) for name in sorted(expected.keys() - found.keys())]
    rows += [("unexpected", name, _shape(found[name]), "-") for name in sorted(found.keys() - expected.keys())]
    for name in sorted(found.keys() & expected.keys()):
        if tuple(found[name].shape) != tuple(expected[name].shape):
            rows.append(("reshaped", name, _shape(found[name]), _shape(expected[name])))
    return rows


def check_keys(found: Mapping[str, Shaped], expected: Mapping[str, Shaped], where: str) -> None:
    """Print a table of all that does not fit, and refuse.

    Args:
        found: in the checkpoint.
        expected: in the model its configuration describes, under the same names.
        where: the checkpoint.

    Raises:
        ValueError: one line with the number of each kind and an example.
    """
    if not (rows := key_problems(found, expected)):
        return
    Console(stderr=True).print(_table(rows, where))
    parts = []
    for kind in ("missing", "unexpected", "reshaped"):
        if chosen := [row for row in rows if row[0] == kind]:
            _, name, file, model = chosen[0]
            shapes = f" ({file} in the file, {model} in the model)" if kind == "reshaped" else ""
            parts.append(f"{len(chosen)} {kind}, e.g. {name}{shapes}")
    raise ValueError(
        f"{where}: {'; '.join(parts)}; the weights and their configuration do not belong together, take both from one place"
    )


def _table(rows: Sequence[tuple[str, str, str, str]], where: str) -> Table:
    more = f", the first {MAX_ROWS}" if len(rows) > MAX_ROWS else ""
    table = Table(
        "",
        Column("tensor", overflow="fold"),
        "in the file",
        "in the model",
        title=f"{where}: {len(rows)} tensors do not fit{more}",
    )
    for row in rows[:MAX_ROWS]:
        table.add_row(*row)
    return table


def _shape(tensor: Shaped) -> str:
    return str(list(tensor.shape))
