import json
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.recipe import record as record_module
from bcaudio.recipe.errors import naming_full_disk
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import Progress, is_alive, read_json, stage_key, stage_record

RECIPE = {"seed": 7, "out": "o", "takes": {}, "data": {"batch_size": 2}}


def record_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "stage.json").read_text())


def test_a_finished_stage_is_done_with_what_was_added(tmp_path: Path) -> None:
    with stage_record(tmp_path / "s", RECIPE) as record:
        assert record_of(tmp_path / "s")["status"] == "running"
        record.add(metrics={"wer": np.float32(0.5), "path": Path("x")})
    found = record_of(tmp_path / "s")
    assert (found["status"], found["seed"], found["attempts"], found["metrics"]) == ("done", 7, 1, {"wer": 0.5, "path": "x"})
    assert found["peak_memory_mb"] > 10
    assert {"bcaudio", "python", "torch", "transformers", "lightning", "numpy"} <= found["versions"].keys()
    assert load_recipe(tmp_path / "s" / "recipe.yaml") == RECIPE
    assert not list((tmp_path / "s").glob("*.tmp"))


def _fail(out: Path) -> None:
    with stage_record(out, RECIPE):
        time.sleep(0.06)
        raise RuntimeError("loss is\nnan")


def _interrupt(out: Path) -> None:
    with stage_record(out, RECIPE):
        time.sleep(0.06)
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)  # noqa: B904 (as Lightning does)


def test_failure_and_interrupt_are_told_apart_and_resuming_adds_up(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        _fail(tmp_path / "s")
    found = record_of(tmp_path / "s")
    assert (found["status"], found["reason"]) == ("failed", "RuntimeError: loss is nan")
    with pytest.raises(SystemExit):
        _interrupt(tmp_path / "s")
    assert record_of(tmp_path / "s")["status"] == "interrupted"
    with stage_record(tmp_path / "s", RECIPE):
        pass
    found = record_of(tmp_path / "s")
    assert (found["status"], found["attempts"]) == ("done", 3)
    assert "reason" not in found
    assert found["wall_s"] >= 0.12


def _begin(out: Path) -> None:
    with stage_record(out, RECIPE):
        Progress(out, 10).step(3, loss=1.0)
        time.sleep(60)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_stage_goes_on_and_a_living_one_is_left_alone(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_begin, args=(tmp_path / "s",))
    process.start()
    while not (tmp_path / "s" / "progress.json").exists():
        time.sleep(0.01)
    with pytest.raises(ValueError, match=f"process {process.pid} is writing"), stage_record(tmp_path / "s", RECIPE):
        pass
    other_life = {**record_of(tmp_path / "s"), "pid_birth": 1}
    assert is_alive(record_of(tmp_path / "s"))
    assert not is_alive(other_life)  # the same process number, used again
    os.kill(process.pid, signal.SIGKILL)
    while is_alive(record_of(tmp_path / "s")):  # ends although nobody has collected the dead process yet
        time.sleep(0.01)
    with stage_record(tmp_path / "s", RECIPE):
        pass
    process.join()
    assert record_of(tmp_path / "s")["attempts"] == 2


def test_a_folder_made_of_something_else_is_moved_not_mixed(tmp_path: Path) -> None:
    for batch_size in (2, 3, 4):
        with stage_record(tmp_path / "s", {**RECIPE, "data": {"batch_size": batch_size}}):
            (tmp_path / "s" / "checkpoint").touch(exist_ok=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.stale-1", "s.stale-2"]


def data_recipe(job: str, **options: Any) -> dict[str, Any]:
    return {"seed": 7, "job": {"_target_": job, **options}}


PIPELINE, ENCODE = "data_prep.pipeline.Pipeline", "data_prep.encode_codes.EncodeCodes"


def test_a_job_that_keeps_its_folder_keeps_it_when_its_recipe_changes(tmp_path: Path) -> None:
    for size in (2, 3):
        with stage_record(tmp_path / "s", data_recipe(PIPELINE, size=size)):
            (tmp_path / "s" / "shard").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    assert record_of(tmp_path / "s")["attempts"] == 2


@pytest.mark.parametrize("change", ["job that does not", "another job", "taken stage", "version"])
def test_what_a_job_cannot_see_in_its_recipe_moves_the_folder_all_the_same(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ENCODE if "job" in change else PIPELINE
    with stage_record(tmp_path / "s", data_recipe(first, size=2), {"ears": "one"}):
        pass
    second = PIPELINE if change == "another job" else first
    if change == "version":
        changed = {**record_module.versions(), "bcaudio": "0"}
        monkeypatch.setattr(record_module, "versions", lambda: changed)
    with stage_record(tmp_path / "s", data_recipe(second, size=3), {"ears": "two" if change == "taken stage" else "one"}):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "s.stale-1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_full_disk_is_named_with_its_remedy(tmp_path: Path) -> None:
    wanted = r"No space left on device; free some space or choose another out=, then run the same command again: 'x.json'"
    with pytest.raises(OSError, match=wanted), naming_full_disk("x.json"), open("/dev/full", "w") as file:
        file.write("x")
    with pytest.raises(FileNotFoundError, match=r"^\[Errno 2\] No such file or directory: '.*none'$"), naming_full_disk("x.json"):
        (tmp_path / "none").read_text()


def test_the_key_follows_content_not_place() -> None:
    def recipe(root: str, **more: Any) -> dict[str, Any]:
        return {
            "out": f"{root}/a",
            "takes": {"data": f"{root}/p"},
            "shards": f"{root}/p/*.tar",
            "log": f"{root}/a/l",
            "threads": 1,
            **more,
        }

    key = stage_key(recipe("runs/x"), {"data": "k"})
    assert stage_key(recipe("elsewhere", threads=2, name="n"), {"data": "k"}) == key
    assert stage_key(recipe("runs/x"), {"data": "k2"}) != key
    assert stage_key(recipe("runs/x", seed=1), {"data": "k"}) != key
    assert stage_key(recipe("runs/x", shards="runs/x/pp"), {"data": "k"}) != key


def test_the_keys_of_taken_folders_are_recorded(tmp_path: Path) -> None:
    with stage_record(tmp_path / "p", RECIPE) as first:
        pass
    with stage_record(tmp_path / "s", {"takes": {"data": str(tmp_path / "p")}}, {"data": tmp_path / "p"}) as second:
        pass
    assert record_of(tmp_path / "s")["takes"] == {"data": {"folder": str(tmp_path / "p"), "key": first.key}}
    assert second.key == stage_key(second.recipe, {"data": first.key})


def test_only_rank_zero_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with stage_record(tmp_path / "s", RECIPE) as record:
        record.add(x=1)
    assert not (tmp_path / "s").exists()


def test_progress_is_written_at_most_once_a_second_and_at_the_end(tmp_path: Path) -> None:
    progress = Progress(tmp_path, 3)
    steps = []
    for n in (1, 2, 3):
        progress.step(n, loss=np.float32(0.5))
        steps.append(read_json(tmp_path / "progress.json")["step"])
    assert steps == [1, 1, 3]
    assert read_json(tmp_path / "progress.json")["numbers"] == {"loss": 0.5}
