"""kill -9 at random moments: the finished shards equal those of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("espeakng_loader")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="finds workers through /proc"),
]

NUM_KILLS, NUM_RAY_KILLS = 20, 5
RECIPE = """
name: faults
seed: 0
engine: local
workers: 2
out: "???"
job:
  _target_: data_prep.pipeline.Pipeline
  corpora:
    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: numbers, train: 60, test: 12, samples_per_shard: 4}
    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: text_sums, train: 40, test: 4, samples_per_shard: 4}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "faults.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def expected(recipe: Path) -> dict[str, bytes]:
    """The shards of an undisturbed run."""
    assert start(recipe, recipe.parent / "undisturbed").wait(120) == 0
    found = shards(recipe.parent / "undisturbed")
    assert len(found) == 2 * (30 + 6 + 20 + 2)
    return found


def start(recipe: Path, out: Path, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "data_prep", "run", str(recipe), f"out={out}", *overrides]
    return subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2], stdout=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def workers_of(driver: subprocess.Popen[bytes]) -> list[int]:
    return [pid for pid in children(driver.pid) if "spawn_main" in title(pid)]


def title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}


def same(out: Path, expected: dict[str, bytes]) -> None:
    found = shards(out)
    assert sorted(found) == sorted(expected)
    assert [name for name in sorted(found) if found[name] != expected[name]] == []
    assert not list(out.rglob("*.tmp"))


def kill(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_kill_9_of_driver_and_workers_leaves_the_same_bytes(recipe: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    rng = random.Random(0)
    kills, out = {"driver": 0, "worker": 0}, tmp_path / "disturbed-0"
    while sum(kills.values()) < NUM_KILLS:
        driver = start(recipe, out)
        if rng.random() < 0.5:
            while driver.poll() is None and not workers_of(driver):  # a busy machine starts them late
                time.sleep(0.05)
            time.sleep(rng.uniform(0.0, 1.0))
            if workers := workers_of(driver):
                kills["worker"] += kill(rng.choice(workers))
                time.sleep(rng.uniform(0.1, 1.0))
        else:
            time.sleep(rng.uniform(0.2, 4.0))
        if driver.poll() is None:
            kills["driver"] += kill(driver.pid)
        if driver.wait(60) == 0:  # it was quicker than the kill: begin anew beside it
            same(out, expected)
            out = out.with_name(f"disturbed-{sum(kills.values())}")
    assert start(recipe, out).wait(120) == 0
    same(out, expected)
    assert min(kills.values()) >= 3, kills


def test_kill_9_of_ray_workers_leaves_the_same_bytes(recipe: Path, expected: dict[str, bytes], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    rng, kills, runs = random.Random(0), 0, 0
    while kills < NUM_RAY_KILLS:
        runs += 1
        assert runs <= 3, f"{kills} kills in 3 runs: the workers were not found"
        out = tmp_path / f"ray-{runs}"
        driver = start(recipe, out, "engine=ray")
        while driver.poll() is None:
            time.sleep(rng.uniform(0.05, 0.4))
            workers = [pid for pid in descendants(driver.pid) if title(pid).startswith("ray::make_shard")]
            if workers and kills < NUM_RAY_KILLS:
                kills += kill(rng.choice(workers))
        assert driver.returncode == 0
        same(out, expected)
