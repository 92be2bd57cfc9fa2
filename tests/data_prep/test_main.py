from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main

RECIPE = """
name: tiny
seed: 0
out: OUT
job:
  _target_: data_prep.pipeline.Pipeline
  max_duration_s: 9.0
  corpora:
    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: text_numbers, train: 3, test: 1}
"""


def test_run_writes_shards_and_the_done_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.replace("OUT", str(tmp_path / "out")))
    assert main(["run", str(recipe), "job.corpora.0.train=5"]) == 0
    record = json.loads((tmp_path / "out" / "stage.json").read_text())
    assert record["status"] == "done"
    assert record["num_samples"] == {"text_numbers-train": 10, "text_numbers-test": 2}
    assert json.loads((tmp_path / "out" / "progress.json").read_text())["total"] == 2
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")


def test_status_and_verify_look_at_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(RECIPE.replace("OUT", str(out)))
    assert main(["status", str(out)]) == 2
    assert "no data recipe has run here" in capsys.readouterr().err
    assert main(["run", str(recipe)]) == 0
    assert main(["status", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "done, attempt 1" in printed
    assert "phase 0: 2 of 2 shards" in printed
    assert main(["verify", str(out)]) == 0
    tar = out / "shards" / "text_numbers-train-000000.tar"
    broken = bytearray(tar.read_bytes())
    broken[600] ^= 1
    tar.write_bytes(bytes(broken))
    assert main(["verify", str(out)]) == 1
    printed = capsys.readouterr().out.replace("\n", "")
    assert "text_numbers-train-000000.tar" in printed
    assert "text_numbers-train-en-000000" in printed


def test_mistakes_end_with_two_and_one_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.replace("max_duration_s", "max_durations_s"))
    assert main(["run", str(recipe)]) == 2
    error = capsys.readouterr().err
    assert "job.max_durations_s" in error
    assert "max_duration_s" in error
    assert "Traceback" not in error
    assert main(["run", str(tmp_path / "gone.yaml")]) == 2


def test_a_recipe_need_not_say_on_what_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(
        f"name: tiny\nseed: 0\nout: {tmp_path / 'out'}\njob:\n  _target_: data_prep.pipeline.Pipeline\n  corpora:\n"
        "    - {_target_: data_prep.sources.micro_world.MicroWorld, corpus: text_sums, train: 2, test: 1}\n"
    )
    assert main(["run", str(recipe), "engine=local", "workers=2"]) == 0
    assert main(["run", str(recipe), "engine=locla"]) == 2
    assert "engine is 'locla'; choose one of local, ray" in capsys.readouterr().err
