"""The recipe of data preparation alone, at a tiny scale; at its own scale it is an acceptance test run by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bcaudio.data.index import ShardIndex
from bcaudio.data.verify import verify_shard
from data_prep.__main__ import main

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "data" / "asterisk_and_synthetic.yaml"
# without the prompts, which would have to be downloaded
TINY = [f"job.corpora.{i}.{split}={count}" for i, split, count in ((1, "train", 5), (1, "test", 1), (2, "train", 3))]
TINY += ["job.corpora.2.test=0", "job.corpora.3.train=2", "job.corpora.3.test=0", "job.corpora.1.samples_per_shard=4"]


def prepared(out: Path, *overrides: str) -> Path:
    assert main(["run", str(RECIPE), f"out={out}", "job.corpora.0.max_train=0", *TINY, *overrides]) == 0
    return out


def without_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("espeakng_loader", "silero_vad", "wetext"):
        pytest.importorskip(package)
    monkeypatch.setattr(shutil, "which", lambda name: None)  # no apt-get: the corpus is left out with a warning


def test_a_tiny_run_goes_through_every_step_and_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prompts(monkeypatch)
    out = prepared(tmp_path / "out", "workers=1")
    record = json.loads((out / "stage.json").read_text())
    assert "this machine has no apt-get" in record["left_out"]["prompts"]
    assert record["num_samples"]["text_stories-train"] == 4
    steps = [f"0/{name}" for name in ("NormalizeText", "SynthesizeText", "Loudness", "CutSpeech", "Segment", "Resample")]
    assert list(record["into_step"]) == [*steps, "1/Duplicates"]
    assert set(record["dropped"]) <= {"read", "write", *(name.partition("/")[2] for name in record["into_step"])}
    assert record["dropped"]["CutSpeech"].keys() >= {"silence"}
    assert record["into_step"]["0/SynthesizeText"]["clips"] == 2 * (5 + 1 + 3 + 2)
    index = ShardIndex([out / "shards" / "*.tar"])
    stories = [index.sample(i) for i in range(len(index)) if index.entry(i).corpus == "text_stories"]
    assert min(len(story.spans) for story in stories) >= 3
    assert all(index.sample(i).words for i in range(len(index)))
    assert main(["verify", str(out)]) == 0


def test_a_flipped_byte_is_found_in_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_prompts(monkeypatch)
    out = prepared(tmp_path / "out", "workers=1")
    tar = out / "shards" / "text_stories-train-000000.tar"
    sound = ShardIndex([tar])
    data = bytearray(tar.read_bytes())
    data[data.index(b"fLaC") + 5000] ^= 1
    tar.write_bytes(data)
    problems = verify_shard(tar)
    assert all(str(tar) in problem for problem in problems)
    assert any(sound.key(0) in problem for problem in problems)
    assert not any(sound.key(1) in problem for problem in problems)
    assert main(["verify", str(out)]) != 0
