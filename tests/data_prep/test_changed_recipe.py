"""A data folder stays when its recipe changes: what still fits is kept, the rest is made or removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bcaudio.cli import main as bcaudio
from data_prep.__main__ import run
from data_prep.pipeline import Pipeline
from data_prep.sources.micro_world import MicroWorld
from data_prep.utterance import Clip, Drops

RECIPE = """
name: changing
seed: 0
out: {out}
job:
  _target_: data_prep.pipeline.Pipeline
  corpora: [{corpora}]
"""
SOURCE = "{{_target_: data_prep.sources.micro_world.MicroWorld, corpus: {}, train: 6, test: 1, samples_per_shard: 5}}"


def made(folder: Path, *corpora: str) -> dict[str, Any]:
    """Run the recipe with these corpora; the record."""
    path = folder.with_suffix(".yaml")
    path.write_text(RECIPE.format(out=folder, corpora=", ".join(SOURCE.format(name) for name in corpora)))
    run(path)
    return json.loads((folder / "stage.json").read_text())


def times(folder: Path) -> dict[str, int]:
    files = (path for room in ("shards", "done") for path in (folder / room).iterdir())
    return {path.name: path.stat().st_mtime_ns for path in files}


def content(folder: Path) -> dict[str, bytes]:
    """What two runs must have in common: all but the record of the run itself."""
    files = (
        path for path in folder.rglob("*") if path.is_file() and path.name not in ("stage.json", "progress.json", "recipe.yaml")
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_corpus_is_added_and_removed_and_the_shards_of_the_others_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert made(out, "text_numbers")["shards_made"] == 4  # 12 training samples in shards of five, and one shard of test
    numbers = times(out)
    assert len(numbers) == 3 * 4  # tar, index, done-record
    added = made(out, "text_numbers", "text_sums")
    assert (added["shards_made"], added["shards_kept"], added["attempts"]) == (4, 4, 2)
    assert numbers.items() <= times(out).items()
    sums = {name: time for name, time in times(out).items() if name.startswith("text_sums")}
    removed = made(out, "text_sums")
    assert (removed["shards_made"], removed["shards_kept"]) == (0, 4)
    assert times(out) == sums
    made(tmp_path / "fresh", "text_sums")
    assert content(out) == content(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "fresh.yaml", "out", "out.yaml"]


class PassAll:
    """A survey that has nothing to say."""

    def look(self, clip: Clip) -> None:
        return None

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        return {}

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        return clip


def test_shards_of_a_phase_that_is_no_longer_there_are_removed(tmp_path: Path) -> None:
    corpora = [MicroWorld("text_numbers", 6, 1, samples_per_shard=5)]
    Pipeline(corpora, [PassAll(), PassAll()]).run(tmp_path / "out", 0)
    assert {path.name for path in (tmp_path / "out").glob("phase-*")} == {"phase-0", "phase-1"}
    Pipeline(corpora, [PassAll()]).run(tmp_path / "out", 0)
    assert {path.name for path in (tmp_path / "out").glob("phase-*")} == {"phase-0"}
    Pipeline(corpora).run(tmp_path / "out", 0)
    Pipeline(corpora).run(tmp_path / "fresh", 0)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_what_the_pipeline_did_not_make_stays(tmp_path: Path) -> None:
    corpora = [MicroWorld("text_numbers", 2, 0)]
    Pipeline(corpora).run(tmp_path, 0)
    (tmp_path / "shards" / "README.txt").write_text("mine")
    (tmp_path / "report").mkdir()
    Pipeline(corpora).run(tmp_path, 0)
    assert (tmp_path / "shards" / "README.txt").read_text() == "mine"
    assert (tmp_path / "report").is_dir()


def test_a_pipeline_keeps_the_folder_of_a_changed_data_recipe(tmp_path: Path) -> None:
    recipe, pipeline = tmp_path / "data.yaml", tmp_path / "pipeline.yaml"
    corpora = SOURCE.format("text_numbers")
    recipe.write_text(RECIPE.format(out='"???"', corpora=corpora))
    command = {"command": "data_prep", "recipe": "data.yaml"}
    pipeline.write_text(json.dumps({"run_dir": str(tmp_path / "run"), "stages": {"data": command}}))
    assert bcaudio(["run", str(pipeline)]) == 0
    numbers = times(tmp_path / "run" / "data")
    recipe.write_text(RECIPE.format(out='"???"', corpora=corpora + ", " + SOURCE.format("text_sums")))
    assert bcaudio(["run", str(pipeline)]) == 0
    assert numbers.items() < times(tmp_path / "run" / "data").items()
    assert [path.name for path in (tmp_path / "run").iterdir() if "stale" in path.name] == []
