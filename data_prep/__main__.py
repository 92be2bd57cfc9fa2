"""`python -m data_prep run RECIPE [key=value ...]`: run the job of a data recipe; `status` and `verify` look at its folder."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bcaudio.data.inspect import verify
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.errors import exit_code
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import Progress, stage_record
from data_prep.engine import Engine
from data_prep.report import report
from data_prep.status import status, step_costs

DATA_KEYS = frozenset({"extends", "name", "paper", "seed", "threads", "engine", "workers", "takes", "out", "job"})


def run(path: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Check the recipe, build `job` and call `job.run(out, seed, progress, engine)`; what it returns goes into `out/stage.json`.

    Returns:
        The folder `out`.

    Raises:
        ValueError: every problem of the recipe, one per line; or what the job says.
    """
    # how to run is no part of what is made, so a recipe may leave it to the command line
    overrides = [f"+{override}" if override.startswith(("engine=", "workers=")) else override for override in overrides]
    recipe = load_recipe(path, overrides)
    check_recipe(recipe, path, schema=DATA_KEYS, given={})
    missing = [key for key in ("out", "job", "seed") if key not in recipe]
    if missing:
        raise ValueError(f"{path}: {', '.join(missing)} missing; a data recipe has out, seed and job")
    os.environ["OMP_NUM_THREADS"] = str(recipe.get("threads", 1))  # for the processes that the job starts
    out = Path(recipe["out"])
    takes = {name: Path(folder) for name, folder in (recipe.get("takes") or {}).items()}
    job = build(recipe["job"], "job")
    engine = Engine(recipe.get("engine", "local"), recipe.get("workers", 1))
    with stage_record(out, recipe, takes) as record:
        record.add(**job.run(out, recipe["seed"], Progress(out, total=1), engine))
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code (see bcaudio.recipe.errors.exit_code)."""
    parser = argparse.ArgumentParser(prog="python -m data_prep", description="raw audio and text -> shards")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("run", help="run a data recipe, or go on with it")
    command.add_argument("recipe", type=Path)
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="engine=ray, workers=8, out=DIR, job.corpora.0.train=5"
    )
    command.set_defaults(function=lambda given: print(run(given.recipe, given.overrides)))
    command = commands.add_parser("status", help="how far a data folder is, and where its hours went")
    command.add_argument("out", type=Path)
    command.add_argument("--costs", type=float, metavar="MINUTES", help="time every step of its recipe on so much of its sound")
    command.set_defaults(function=lambda given: status(given.out) if given.costs is None else step_costs(given.out, given.costs))
    command = commands.add_parser("report", help="write OUT/report/index.html: hours, drops, histograms, sounds")
    command.add_argument("out", type=Path)
    command.set_defaults(function=lambda given: print(report(given.out)))
    command = commands.add_parser("verify", help="check every shard of a data folder completely")
    command.add_argument("out", type=Path)
    command.set_defaults(function=lambda given: verify([given.out / "shards" / "*.tar"]))
    given = parser.parse_args(arguments)
    return exit_code(lambda: given.function(given))


if __name__ == "__main__":
    sys.exit(main())
