from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE

import pytest

from data_prep.__main__ import run
from data_prep.engine import MAX_TRIES, Engine, WorkerLost
from data_prep.utterance import MissingExtra


def square(number: int) -> int:
    return number * number


def die_once(task: tuple[Path, int]) -> int:
    """Kills its own process the first time, and then does its work."""
    mark, number = task
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: int) -> int:
    raise ValueError(f"task {task} is bad")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_run_once_and_comes_with_its_result(workers: int) -> None:
    assert sorted(Engine(workers=workers).map(square, range(7))) == [(n, n * n) for n in range(7)]


def test_a_killed_worker_is_replaced_and_its_task_done_again(tmp_path: Path) -> None:
    tasks = [(tmp_path / "died", number) for number in range(6)]
    assert sorted(result for _, result in Engine(workers=2).map(die_once, tasks)) == list(range(6))
    assert (tmp_path / "died").exists()


def test_a_task_that_kills_every_worker_is_named() -> None:
    with pytest.raises(WorkerLost, match=f"its worker died {MAX_TRIES} times; look for a lack of memory"):
        list(Engine(workers=2).map(die, range(2)))


def test_an_exception_of_the_task_is_raised_as_it_is() -> None:
    with pytest.raises(ValueError, match="task 0 is bad"):
        list(Engine(workers=1).map(fail, range(1)))
    with pytest.raises(ValueError, match="is bad"):
        list(Engine(workers=2).map(fail, range(3)))


def threads(task: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_workers_have_one_thread_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert {found for _, found in Engine(workers=2).map(threads, range(2))} == {"1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert {found for _, found in Engine(workers=2).map(threads, range(2))} == {"3"}


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"Ray is not installed; pip install bcaudio\[ray\]"):
        list(Engine("ray").map(square, range(2)))


@pytest.mark.slow  # the first of these starts Ray, which stays for the others
class TestRay:
    @pytest.fixture(autouse=True)
    def _ray(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("ray")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def test_every_task_is_run_once_and_comes_with_its_result(self) -> None:
        assert sorted(Engine("ray", 2).map(square, range(7))) == [(n, n * n) for n in range(7)]

    def test_nothing_listens_beyond_this_machine(self) -> None:
        # in a process of its own: a Ray that was imported before the engine is asked keeps its own mind
        code = "import json; from data_prep.engine import Engine; list(Engine('ray', 1).map(json.dumps, range(2)))"
        code += "; print('up', flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, stderr=DEVNULL, text=True) as driver:
            assert driver.stdout.readline() == "up\n"
            found = _listening(_descendants(driver.pid))
            driver.communicate("\n")
        assert len(found) > 3
        assert [place for place in found if not place.startswith(("0100007F:", "0000000000000000FFFF00000100007F:"))] == []

    def test_a_killed_worker_is_replaced_and_its_task_done_again(self, tmp_path: Path) -> None:
        tasks = [(tmp_path / "died", number) for number in range(6)]
        assert sorted(result for _, result in Engine("ray", 2).map(die_once, tasks)) == list(range(6))
        assert (tmp_path / "died").exists()

    def test_a_task_that_kills_every_worker_is_named(self) -> None:
        with pytest.raises(WorkerLost, match=f"1: its worker died {MAX_TRIES} times; look for a lack of memory"):
            list(Engine("ray", 2).map(die, range(2)))

    def test_an_exception_of_the_task_is_raised_as_it_is(self) -> None:
        with pytest.raises(ValueError, match=r"^task \d is bad$") as caught:
            list(Engine("ray", 2).map(fail, range(3)))
        assert type(caught.value) is ValueError

    def test_the_shards_are_those_of_local_workers(self, tmp_path: Path) -> None:
        pytest.importorskip("espeakng_loader")
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(RECIPE)
        made = {}
        for kind, workers in (("local", 1), ("local", 2), ("ray", 2)):
            out = run(recipe, [f"engine={kind}", f"workers={workers}", f"out={tmp_path / f'{kind}{workers}'}"])
            made[kind, workers] = {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}
        assert len(made["local", 1]) == 10  # 8 clips by 3 and 2 by 3, before duplicates go, and an index each; text alike
        assert made["local", 1] == made["local", 2] == made["ray", 2]


RECIPE = """
name: small
seed: 0
engine: local
workers: 1
out: "???"
job:
  _target_: data_prep.pipeline.Pipeline
  corpora:
    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: numbers, train: 4, test: 1, samples_per_shard: 3}
    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: text_sums, train: 20, test: 0}
  steps:
    - {_target_: data_prep.steps.loudness.Loudness}
    - {_target_: data_prep.steps.duplicates.Duplicates}
"""


def _descendants(pid: int) -> list[int]:
    children = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return [pid, *(below for child in children for below in _descendants(child))]


def _listening(pids: list[int]) -> list[str]:
    """`address:port` in hexadecimal of every TCP socket on which these processes wait for connections."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            name = os.readlink(descriptor) if descriptor.is_symlink() else ""
            if name.startswith("socket:["):
                sockets.add(name[8:-1])
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1])
    return found


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="engine is 'slurm'; choose one of local, ray"):
        Engine("slurm")
    with pytest.raises(ValueError, match="workers is 0; it must be at least 1"):
        Engine(workers=0)
