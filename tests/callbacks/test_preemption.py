"""Told to go: a checkpoint after the step, exit code 75, and the same command ends where an undisturbed one does."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bcaudio.checkpoint import load_state

TINY = Path(__file__).parent.parent / "cluster" / "tiny_stage.py"
STEPS = 60


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runpy.run_path(str(TINY))["write"](tmp_path_factory.mktemp("world"), STEPS)


def command(recipe: Path, out: Path, ranks: int) -> list[str]:
    """`bcaudio launch --backend local` for two ranks, plain `bcaudio train` for one."""
    bcaudio = [sys.executable, "-m", "bcaudio"]
    if ranks == 1:
        return [*bcaudio, "train", str(recipe), f"out={out}"]
    local = ["--backend", "local", "--nodes", "1", f"cluster.processes_per_node={ranks}"]
    return [*bcaudio, "launch", str(recipe), *local, f"out={out}"]


def run(arguments: list[str], tell: signal.Signals | None = None, out: Path | None = None) -> int:
    """The exit code; with `tell`, that signal is sent as soon as steps are being made in `out`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True)
    deadline = time.monotonic() + 120
    while tell and not (out / "progress.json").exists():  # type: ignore[operator]
        assert process.poll() is None, process.stderr.read()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if tell:
        process.send_signal(tell)
    process.communicate(timeout=120)
    return process.returncode


def check(recipe: Path, folder: Path, ranks: int, tell: signal.Signals) -> None:
    told, undisturbed = folder / "told", folder / "undisturbed"
    assert run(command(recipe, told, ranks), tell, told) == 75
    record = json.loads((told / "stage.json").read_text())
    (checkpoint,) = (told / "checkpoints").glob("*.ckpt")
    saved = int(checkpoint.stem.removeprefix("step="))
    assert 0 < saved < STEPS
    assert torch.load(checkpoint / "state.ckpt", weights_only=True, map_location="cpu")["next_step"] == saved
    reason = f"Preempted: told to stop; saved after {saved} steps; the same command goes on from there"
    assert (record["status"], record["reason"]) == ("interrupted", reason)
    assert run(command(recipe, told, ranks)) == 0
    assert run(command(recipe, undisturbed, ranks)) == 0
    record = json.loads((told / "stage.json").read_text())
    assert (record["status"], record["attempts"], record["steps"]) == ("done", 2, STEPS)
    ours, theirs = load_state(told), load_state(undisturbed)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    header, *rows = (told / "logs" / "metrics.csv").read_text().splitlines()
    at, loss = header.split(",").index("step"), header.split(",").index("train/loss")
    assert [int(row.split(",")[at]) for row in rows if row.split(",")[loss]] == list(range(STEPS)), "every step logged, once"


def test_a_stage_that_is_told_to_go_saves_and_ends_as_an_undisturbed_one(recipe: Path, tmp_path: Path) -> None:
    check(recipe, tmp_path, ranks=1, tell=signal.SIGUSR1)


@pytest.mark.slow
def test_two_ranks_agree_on_the_step(recipe: Path, tmp_path: Path) -> None:
    check(recipe, tmp_path, ranks=2, tell=signal.SIGTERM)
