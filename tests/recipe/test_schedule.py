import json
import os
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bcaudio.recipe.display import Display, Row, status_table
from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.graph import Command, load_pipeline
from bcaudio.recipe.schedule import run_pipeline

# A stage as real ones are: loads its recipe, keeps a record, resumes from what it has done, and counts its steps in a file.
STAGE = """
import os, sys, time
from pathlib import Path
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import Progress, stage_record
recipe = load_recipe(sys.argv[1], sys.argv[2:])
out = Path(recipe["out"])
with stage_record(out, recipe, recipe.get("takes", {})) as record:
    begin = time.time()
    progress, steps = Progress(out, recipe["steps"]), out / "steps.txt"
    for n in range(len(steps.read_text()) if steps.exists() else 0, recipe["steps"]):
        with steps.open("a") as file:
            file.write("x")
        progress.step(n + 1, loss=0.5)
        time.sleep(recipe["pause_s"])
        print("step", n, "of", out.name, flush=True)
        if n == recipe["fails_at"] and not (out / "forgiven").exists():
            raise RuntimeError("loss is nan")
    record.add(metrics={"threads": os.environ["OMP_NUM_THREADS"]}, span=[begin, time.time()])
"""
RECIPE = "steps: 3\npause_s: 0.0\nfails_at: -1\nthreads: 1\n"
PIPELINE = """
name: tiny
run_dir: RUN
stages:
  a: {command: tiny, recipe: free.yaml}
  b: {command: tiny, recipe: taking.yaml, takes: {data: a}}
  c: {command: tiny, recipe: taking.yaml, takes: {data: b}}
  d: {command: tiny, recipe: free.yaml}
"""


@pytest.fixture
def tiny(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(repository))  # stages are processes of their own; the package need not be installed
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "free.yaml").write_text(RECIPE)
    (tmp_path / "taking.yaml").write_text('extends: free.yaml\ntakes: {data: "???"}\n')
    (tmp_path / "pipeline.yaml").write_text(PIPELINE.replace("RUN", str(tmp_path / "run")))
    return tmp_path


def commands(folder: Path, **kwargs: Any) -> dict[str, Command]:
    return {"tiny": Command((sys.executable, str(folder / "stage.py")), **kwargs)}


def run(folder: Path, *overrides: str, table: dict[str, Command] | None = None, **kwargs: Any) -> tuple[int, str]:
    table = table or commands(folder)
    shown = StringIO()
    pipeline = load_pipeline(folder / "pipeline.yaml", overrides, table)
    code = run_pipeline(pipeline, commands=table, console=Console(file=shown, width=300), **kwargs)
    return code, shown.getvalue()


def record(folder: Path, stage: str) -> dict[str, Any]:
    return json.loads((folder / "run" / stage / "stage.json").read_text())


def steps(folder: Path) -> dict[str, int]:
    return {path.parent.name: len(path.read_text()) for path in (folder / "run").glob("*/steps.txt")}


def test_all_stages_run_once_then_all_are_skipped(tiny: Path) -> None:
    code, text = run(tiny, "d.threads=2")
    assert code == 0
    assert steps(tiny) == {"a": 3, "b": 3, "c": 3, "d": 3}
    assert [record(tiny, name)["metrics"]["threads"] for name in "abcd"] == ["1", "1", "1", "2"]
    assert text.index("a: done") < text.index("b: started") < text.index("b: done") < text.index("c: started")
    assert "step 2 of c" in (tiny / "run" / "c" / "logs" / "console.log").read_text()
    code, text = run(tiny, "d.threads=2")
    assert (code, text.splitlines()) == (0, [f"{name}: done already, skipped" for name in "abcd"])
    assert record(tiny, "a")["attempts"] == 1


def test_a_changed_stage_and_those_after_it_are_made_anew_beside_the_old(tiny: Path) -> None:
    run(tiny)
    code, text = run(tiny, "b.steps=2")
    assert code == 0
    assert steps(tiny) == {"a": 3, "b": 2, "b.stale-1": 3, "c": 3, "c.stale-1": 3, "d": 3}
    assert "b: stale (steps was 3, is 2)" in text
    assert "c: stale (takes.data (b) has changed)" in text
    assert "a: done already, skipped" in text


def test_a_failed_stage_shows_its_log_and_stops_only_what_takes_from_it(tiny: Path) -> None:
    code, text = run(tiny, "a.fails_at=1")
    assert code == 1
    assert steps(tiny) == {"a": 2, "d": 3}
    assert "a: FAILED, exit code 1" in text
    assert str(tiny / "run" / "a" / "logs" / "console.log") in text
    assert "  | RuntimeError: loss is nan" in text
    assert "b: not run, since it takes from a" in text
    assert "c: not run, since it takes from b" in text
    assert (record(tiny, "a")["status"], record(tiny, "a")["reason"]) == ("failed", "RuntimeError: loss is nan")
    shown = StringIO()
    console = Console(file=shown, width=200)
    console.print(status_table(load_pipeline(tiny / "pipeline.yaml", ["a.fails_at=1"], commands(tiny))))
    a_line, _, _, d_line = (
        line for line in shown.getvalue().splitlines() if line[2:3] in "abcd" and line[2:3] and "stage" not in line
    )
    assert "cut off" in a_line
    assert "RuntimeError: loss is nan" in a_line
    assert "done" in d_line
    assert "3/3" in d_line

    (tiny / "run" / "a" / "forgiven").touch()
    code, text = run(tiny, "a.fails_at=1")
    assert code == 0
    assert steps(tiny) == {"a": 3, "b": 3, "c": 3, "d": 3}  # a went on with its third step
    assert "a: goes on where it was cut off" in text
    assert record(tiny, "a")["attempts"] == 2


def test_independent_stages_overlap_with_two_jobs_and_not_with_one(tiny: Path) -> None:
    run(tiny, "a.pause_s=0.4", "d.pause_s=0.4", only=["a", "d"], jobs=2)
    (a_begin, a_end), (d_begin, d_end) = record(tiny, "a")["span"], record(tiny, "d")["span"]
    assert max(a_begin, d_begin) < min(a_end, d_end)
    run(tiny, "a.steps=1", "d.steps=1", only=["a", "d"], jobs=1)
    assert record(tiny, "a")["span"][1] <= record(tiny, "d")["span"][0]


def test_a_terminal_gets_a_live_table(tiny: Path) -> None:
    shown = StringIO()
    table = commands(tiny)
    pipeline = load_pipeline(tiny / "pipeline.yaml", ["a.pause_s=0.3"], table)
    console = Console(file=shown, width=120, force_terminal=True, color_system=None)
    assert run_pipeline(pipeline, only=["a"], commands=table, console=console) == 0
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.getvalue().splitlines() if "│ a " in line]
    assert any(line[:2] == ["a", "running"] and line[3] == "loss 0.5" for line in lines), lines
    assert lines[-1][:3] == ["a", "done", "3/3"]


def test_without_a_terminal_a_running_stage_gets_a_line_at_intervals() -> None:
    shown = StringIO()
    rows = [Row("a", "running", "1/3", "loss 0.5", 65.0), Row("b", "waiting")]
    with Display(lambda: rows, Console(file=shown, width=80), every_s=0.05) as display:
        display.refresh()
        assert shown.getvalue() == ""
        time.sleep(0.06)
        display.refresh()
        display.refresh()
    assert shown.getvalue() == "a: running  1/3  loss 0.5  1:05\n"


def test_only_and_from_choose_stages(tiny: Path) -> None:
    with pytest.raises(ValueError, match="stage b takes from a, which is not done"):
        run(tiny, only=["b"])
    run(tiny, only=["a"])
    assert steps(tiny) == {"a": 3}
    run(tiny, start="b")
    assert steps(tiny) == {"a": 3, "b": 3, "c": 3}
    with pytest.raises(ValueError, match=r"no stage 'bb'; did you mean 'b'\?"):
        run(tiny, start="bb")


def test_all_recipes_are_checked_before_anything_runs(tiny: Path) -> None:
    (tiny / "taking.yaml").write_text("extends: free.yaml\ntakes: {data: x}\nstepz: 1\nmodel: {_target_: torch.nn.Lienar}\n")
    with pytest.raises(RecipeError) as caught:
        run(tiny, table=commands(tiny, schema={"steps", "pause_s", "fails_at", "threads", "takes", "out", "model"}))
    assert [line.split(": ", 1)[1] for line in caught.value.problems] == [
        "stepz: unknown key; did you mean 'steps'?",
        "model._target_: torch.nn.Lienar: torch.nn has no 'Lienar'; did you mean 'Linear'?",
    ]
    assert not (tiny / "run").exists()


def test_a_command_that_keeps_no_record_or_another_one_has_failed(tiny: Path) -> None:
    code, text = run(tiny, only=["a"], table={"tiny": Command((sys.executable, "-c", "print('hi')"))})
    assert code == 1
    assert "without a done-record" in text
    (tiny / "stage.py").write_text(STAGE.replace("out = Path", "recipe['x'] = 1; out = Path"))
    code, text = run(tiny, only=["a"])
    assert code == 1
    assert "it recorded another recipe" in text


def test_a_missed_bar_lets_the_rest_run_and_keeps_the_exit_code(tiny: Path) -> None:
    missed = "record.add(gate={'wer': {'value': 0.4, 'max': 0.1, 'holds': False}, 'mel': {'holds': True}})"
    (tiny / "stage.py").write_text(f"{STAGE}    {missed}\nsys.exit(1)\n")
    for _ in range(2):
        code, text = run(tiny, only=["a", "b"])
        assert code == 1
        assert steps(tiny) == {"a": 3, "b": 3}
        assert "a: wer misses its bar: {'value': 0.4, 'max': 0.1, 'holds': False}" in text
        assert "mel" not in text


RUNNER = """
import sys
from pathlib import Path
from bcaudio.recipe.graph import Command, load_pipeline
from bcaudio.recipe.schedule import run_pipeline
folder = Path(sys.argv[1])
table = {"tiny": Command((sys.executable, str(folder / "stage.py")))}
try:
    sys.exit(run_pipeline(load_pipeline(folder / "pipeline.yaml", sys.argv[2:], table), only=["a"], commands=table))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_runner(folder: Path) -> tuple[subprocess.Popen[str], int]:
    """A runner whose stage `a` has taken its first step, and the process id of that stage."""
    command = [sys.executable, "-c", RUNNER, str(folder), "a.pause_s=0.5", "a.steps=40"]
    runner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for _ in range(300):
        if "a" in steps(folder) and (folder / "run" / "a" / "progress.json").exists():
            return runner, record(folder, "a")["pid"]
        time.sleep(0.05)
    runner.kill()
    raise AssertionError("the stage did not start")


def gone(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True  # nobody collects orphans in some containers
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_interrupts_the_stage_which_goes_on_next_time(tiny: Path, number: signal.Signals) -> None:
    runner, pid = start_runner(tiny)
    runner.send_signal(number)
    text, _ = runner.communicate(timeout=20)
    assert runner.returncode == 130
    assert "interrupted; run the same command again" in text
    assert gone(pid)
    assert record(tiny, "a")["status"] == "interrupted"
    done = steps(tiny)["a"]
    (tiny / "run" / "a" / "steps.txt").write_text("x" * 39)
    code, text = run(tiny, "a.pause_s=0.5", "a.steps=40", only=["a"])
    assert code == 0
    assert done < 39
    assert record(tiny, "a")["attempts"] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_stages_die_with_a_killed_runner_and_its_lock_is_free(tiny: Path) -> None:
    runner, pid = start_runner(tiny)
    with pytest.raises(ValueError, match=f"another runner works here .process {runner.pid} on"):
        run(tiny, "a.pause_s=0.5", "a.steps=40", only=["d"])
    runner.kill()
    runner.wait()
    assert gone(pid)
    code, text = run(tiny, "a.steps=1", only=["a"])
    assert code == 0
    assert "a: stale" in text
