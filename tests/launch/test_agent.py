"""The agent runs real ranks: they meet, their exit codes and signals arrive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from bcaudio.cli import main

AGENT = [sys.executable, "-m", "bcaudio.launch.agent"]
MEET = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([10 ** dist.get_rank()])
dist.all_reduce(total)
os.write(1, f"rank {dist.get_rank()} of {dist.get_world_size()} sum {int(total)}\\n".encode())  # one write: lines do not mix
dist.destroy_process_group()
"""
LISTEN = """
import os, signal, sys, time
def leave(number, frame):
    time.sleep(0.2)
    sys.exit(int(os.environ["CODE"]))
signal.signal(signal.SIGUSR1, leave)
os.write(1, b"ready\\n")
time.sleep(60)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def start(script: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen([*AGENT, *options, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("environment")
def test_launch_on_this_machine_runs_ranks_that_meet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`bcaudio launch --backend local` itself, with a module in place of `bcaudio train`."""
    (tmp_path / "meet.py").write_text(MEET)
    (tmp_path / "stage.yaml").write_text(
        yaml.safe_dump({"name": "x", "out": str(tmp_path / "x"), "module": {"_target_": "bcaudio.training.stage.StageModule"}})
    )
    monkeypatch.setattr("bcaudio.launch.start.TRAIN", (str(tmp_path / "meet.py"),))
    assert (
        main(["launch", str(tmp_path / "stage.yaml"), "--backend", "local", "--nodes", "1", "cluster.processes_per_node=2"]) == 0
    )
    lines = sorted(line for line in capfd.readouterr().out.splitlines() if line.startswith("rank"))
    assert lines == ["rank 0 of 2 sum 11", "rank 1 of 2 sum 11"]


@pytest.mark.usefixtures("environment")
def test_two_agents_meet_as_two_nodes_do(tmp_path: Path) -> None:
    (tmp_path / "meet.py").write_text(MEET)
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:29611")
    agents = [start(tmp_path / "meet.py", *options, "--rdzv-id", "7.0") for _ in range(2)]
    printed = sorted(agent.communicate(timeout=60)[0] for agent in agents)
    assert printed == ["rank 0 of 2 sum 11\n", "rank 1 of 2 sum 11\n"]
    assert [agent.returncode for agent in agents] == [0, 0]


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("options", "sent", "code", "expected"),
    [
        ((), signal.SIGTERM, 75, 75),
        ((), signal.SIGUSR1, 75, 75),
        (("--preempted-code", "143"), signal.SIGTERM, 75, 143),
        (("--preempted-code", "143"), signal.SIGTERM, 2, 2),
    ],
)
def test_signals_reach_the_ranks_and_their_code_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], sent: signal.Signals, code: int, expected: int
) -> None:
    """torchrun alone would die of SIGUSR1, and turn 75 into 1."""
    monkeypatch.setenv("CODE", str(code))
    (tmp_path / "listen.py").write_text(LISTEN)
    agent = start(tmp_path / "listen.py", *options, "--standalone", "--nproc-per-node", "2")
    assert [agent.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]  # type: ignore[union-attr]
    agent.send_signal(sent)
    _, errors = agent.communicate(timeout=60)
    assert agent.returncode == expected, errors


@pytest.mark.usefixtures("environment")
def test_told_before_the_nodes_have_met_there_is_nothing_to_save(tmp_path: Path) -> None:
    (tmp_path / "meet.py").write_text(MEET)
    options = ("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:29612")
    agent = start(tmp_path / "meet.py", *options)
    while not is_listening(agent.pid):
        assert agent.poll() is None
        time.sleep(0.05)
    agent.send_signal(signal.SIGUSR1)
    agent.communicate(timeout=60)
    assert agent.returncode == 75


def is_listening(pid: int) -> bool:
    """Whether somebody here listens on port 29612, 73AC in hexadecimal."""
    table = Path(f"/proc/{pid}/net/tcp").read_text() + Path(f"/proc/{pid}/net/tcp6").read_text()
    return any(":73AC " in line and " 0A " in line for line in table.splitlines())
