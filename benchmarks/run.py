"""Run a suite of benchmarks: `python benchmarks/run.py --suite model [--json FILE] [--only ENTRY ...]`."""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.measure import Row, WrongResultError, table

Suite = dict[str, Callable[[], list[Row]]]


def load_suite(name: str) -> Suite:
    """The entries of `benchmarks/suite_<name>.py`, in order.

    Raises:
        FileNotFoundError: there is no such suite.
    """
    folder = Path(__file__).parent
    if not (folder / f"suite_{name}.py").is_file():
        known = ", ".join(sorted(path.stem.removeprefix("suite_") for path in folder.glob("suite_*.py")))
        raise FileNotFoundError(f"--suite {name}: there is no benchmarks/suite_{name}.py; suites: {known}")
    return importlib.import_module(f"benchmarks.suite_{name}").ENTRIES


def choose(suite: Suite, only: Sequence[str]) -> Suite:
    """The entries named in `only`, all if it is empty.

    Raises:
        ValueError: a name is not in the suite.
    """
    unknown = [name for name in only if name not in suite]
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: not in this suite; entries: {', '.join(suite)}")
    return {name: entry for name, entry in suite.items() if not only or name in only}


def run(suite: Suite) -> tuple[list[Row], list[str]]:
    """Rows of all entries, and one line for each entry whose results were wrong."""
    rows, wrong = [], []
    for name, entry in suite.items():
        start = time.perf_counter()
        try:
            rows += entry()
        except WrongResultError as error:
            wrong.append(f"{name}: WRONG RESULT: {error}")
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return rows, wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON. Returns 0; 1 when a bar does not hold or a result is wrong; 2 for a wrong call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", required=True, help="the file benchmarks/suite_NAME.py")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--only", nargs="+", default=[], metavar="ENTRY", help="these entries of the suite only")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default: 2)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        suite = choose(load_suite(options.suite), options.only)
        if options.json and not options.json.absolute().parent.is_dir():
            raise FileNotFoundError(f"--json {options.json}: the folder does not exist; make it first")
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    rows, wrong = run(suite)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores\n")
    print("\n".join([table(rows), *wrong]))
    if options.json:
        options.json.write_text(
            json.dumps([row.as_dict() for row in rows], indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    return int(bool(wrong) or not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
