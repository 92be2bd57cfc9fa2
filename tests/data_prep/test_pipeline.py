from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.audio.io import write_audio
from bcaudio.data.index import ShardIndex
from bcaudio.data.verify import verify_shard
from data_prep.engine import Engine
from data_prep.pipeline import Pipeline
from data_prep.plan import to_line
from data_prep.sources.asterisk import Asterisk
from data_prep.sources.micro_world import MicroWorld
from data_prep.task import clip_of, from_line, sample_of
from data_prep.utterance import Clip, CorpusUnavailable, Drops, Listing, MissingExtra, Part, Utterance

pytest.importorskip("espeakng_loader")


def job() -> Pipeline:
    return Pipeline([MicroWorld("numbers", 4, 1, samples_per_shard=3), MicroWorld("text_sums", 20, 2)])


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


class Recordings:
    """Three recordings: a good one, an empty file and one that is no audio."""

    corpus, samples_per_shard, for_tokenizer = "prompts", 10, False

    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        write_audio(scratch / "good.wav", np.full(8000, 0.1, np.float32), 16_000)
        (scratch / "empty.wav").write_bytes(b"")
        (scratch / "broken.wav").write_text("no audio")
        return Listing(
            [
                Utterance(
                    key=f"prompts-test-en-{name}",
                    corpus="prompts",
                    split="test",
                    language="en",
                    parts=(Part("hello", "user"),),
                    text="hello",
                    audio=f"{name}.wav",
                )
                for name in ("empty", "good", "broken")
            ],
            {"no text": 2},
        )


class Unavailable(Recordings):
    def list_utterances(self, seed: int, scratch: Path) -> Listing:
        raise CorpusUnavailable("prompts left out: no network")


def test_two_workers_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    job().run(tmp_path / "one", 0, engine=Engine(workers=1))
    job().run(tmp_path / "two", 0, engine=Engine(workers=2))
    one, two = tars(tmp_path / "one"), tars(tmp_path / "two")
    assert len(one) == 12  # numbers train 3 + test 1, text train 1 + test 1, each with its index
    assert one == two


def test_restart_makes_only_the_missing_shard_with_equal_bytes(tmp_path: Path) -> None:
    assert job().run(tmp_path, 0)["shards_made"] == 6
    before = tars(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    (tmp_path / "shards" / "numbers-train-000001.tar").unlink()
    result = job().run(tmp_path, 0)
    assert (result["shards_made"], result["shards_kept"]) == (1, 5)
    assert result["num_samples"] == {"numbers-train": 8, "numbers-test": 2, "text_sums-train": 40, "text_sums-test": 4}
    assert tars(tmp_path) == before
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"numbers-train-000001.tar", "numbers-train-000001.idx"}
    assert job().run(tmp_path, 1)["shards_made"] == 6  # another seed is other data


def test_layout_is_readable_and_sound(tmp_path: Path) -> None:
    job().run(tmp_path, 0)
    assert [p for path in sorted((tmp_path / "shards").glob("*.tar")) for p in verify_shard(path)] == []
    index = ShardIndex([tmp_path / "shards" / "*.tar"])
    assert len(index) == 54
    assert json.loads((tmp_path / "fingerprint.json").read_text()) == index.fingerprint
    texts = (tmp_path / "text.txt").read_text().splitlines()
    train = [index.sample(i) for i in range(len(index)) if index.entry(i).split == "train"]
    assert sorted(texts) == sorted(t for s in train for t in (s.text, s.translation, s.answer) if t)


def test_bad_recordings_go_to_quarantine_and_the_run_goes_on(tmp_path: Path) -> None:
    result = Pipeline([Recordings()]).run(tmp_path, 0)
    assert {reason: entry["clips"] for reason, entry in result["dropped"]["read"].items()} == {"empty file": 1, "unreadable": 1}
    assert result["dropped_when_listed"] == {"prompts": {"no text": 2}}
    assert result["num_samples"] == {"prompts-test": 1}
    lines = [json.loads(line) for line in (tmp_path / "drops.jsonl").read_text().splitlines()]
    assert [(line["key"], line["step"], line["reason"]) for line in lines] == [
        ("prompts-test-en-empty", "read", "empty file"),
        ("prompts-test-en-broken", "read", "unreadable"),
    ]
    again = Pipeline([Recordings()]).run(tmp_path, 0)
    assert again["shards_kept"] == 1
    assert again["dropped"] == result["dropped"]


def test_too_long_clips_go_to_quarantine_with_their_length(tmp_path: Path) -> None:
    result = Pipeline([Recordings()], max_duration_s=0.4).run(tmp_path, 0)
    assert {reason: entry["clips"] for reason, entry in result["dropped"]["read"].items()} == {
        "empty file": 1,
        "too long": 1,
        "unreadable": 1,
    }
    assert '"value": 0.5' in (tmp_path / "drops.jsonl").read_text()


def test_unavailable_corpus_is_left_out_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = Pipeline([Unavailable(), MicroWorld("text_sums", 2, 0)]).run(tmp_path, 0)
    assert capsys.readouterr().err == "WARNING: prompts left out: no network\n"
    assert result["left_out"] == {"prompts": "prompts left out: no network"}
    assert result["num_samples"] == {"text_sums-train": 4}


def test_machine_without_apt_leaves_the_prompts_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("BCAUDIO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CorpusUnavailable, match="no apt-get or dpkg"):
        Asterisk().list_utterances(0, tmp_path)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="'text_sums' is listed twice"):
        Pipeline([MicroWorld("text_sums", 1, 0), MicroWorld("text_sums", 1, 0)])
    with pytest.raises(ValueError, match="corpora is empty"):
        Pipeline([])


class HalfUp:
    """Keeps the first half of every clip, drops the second; fails on a key that holds `bad`."""

    def __init__(self, bad: str = "", reason: str = "second half") -> None:
        self.bad, self.reason = bad, reason

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            if self.bad and self.bad in clip.utterance.key:
                raise KeyError("no such thing")
            half = len(clip.waveform) // 2
            drops.add(clip, self, self.reason, duration_s=clip.duration_s - half / clip.sample_rate)
            measures = {**clip.measures, "seconds": round(half / clip.sample_rate, 3)}
            yield dataclasses.replace(clip, waveform=clip.waveform[:half], spans=(), measures=measures)


class NeedsExtra(HalfUp):
    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        raise MissingExtra("NeedsExtra: wondervad is not installed; pip install bcaudio[vad]")


class LongestOnly:
    """A survey that keeps the longest clip of all shards."""

    def look(self, clip: Clip) -> float:
        return clip.duration_s

    def judge(self, seen: Iterator[tuple[str, float]]) -> Mapping[str, Any]:
        lengths = dict(seen)
        longest = max(lengths.values())
        return {key: longest for key, length in lengths.items() if length < longest}

    def apply(self, clip: Clip, verdict: float, drops: Drops) -> Clip | None:
        drops.add(clip, self, "shorter", verdict)
        return None


def numbers(**options: Any) -> Pipeline:
    return Pipeline([MicroWorld("numbers", 4, 0, samples_per_shard=3)], **options)


def test_every_second_that_goes_in_comes_out_or_is_dropped_with_its_reason(tmp_path: Path) -> None:
    whole = numbers().run(tmp_path / "whole", 0)
    result = numbers(steps=[HalfUp()]).run(tmp_path / "half", 0)
    into = result["into_step"]["0/HalfUp"]
    dropped = result["dropped"]["HalfUp"]["second half"]
    assert (into["clips"], dropped["clips"]) == (8, 8)
    assert into["hours"] == pytest.approx(whole["hours"]["numbers-train"], abs=1e-4)
    assert result["hours"]["numbers-train"] + dropped["hours"] == pytest.approx(into["hours"], abs=2e-4)
    sample = ShardIndex([tmp_path / "half" / "shards" / "*.tar"]).sample(0)
    assert sample.measures == {"seconds": round(sample.duration_s, 3)}


def test_a_clip_that_breaks_a_step_costs_only_itself(tmp_path: Path) -> None:
    result = numbers(steps=[HalfUp(bad="en-000001")]).run(tmp_path, 0)
    assert result["num_samples"] == {"numbers-train": 7}
    drops = [json.loads(line) for line in (tmp_path / "drops.jsonl").read_text().splitlines()]
    failed = [(drop["key"], drop["value"]) for drop in drops if drop["reason"] == "step failed"]
    assert failed == [("numbers-train-en-000001", "KeyError: 'no such thing'")]
    assert sum(drop["reason"] == "second half" for drop in drops) == 7
    assert result["into_step"]["0/HalfUp"]["clips"] == 7


def test_a_step_without_its_package_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(MissingExtra, match=r"wondervad is not installed; pip install bcaudio\[vad\]"):
        numbers(steps=[NeedsExtra()]).run(tmp_path, 0)


def test_a_survey_judges_over_all_shards_and_steps_go_on_behind_it(tmp_path: Path) -> None:
    all_clips = numbers().run(tmp_path / "all", 0)
    assert all_clips["num_samples"] == {"numbers-train": 8}
    durations = ShardIndex([tmp_path / "all" / "shards" / "*.tar"]).durations_s
    result = numbers(steps=[LongestOnly(), HalfUp()]).run(tmp_path / "one", 0)
    assert result["num_samples"] == {"numbers-train": 1}
    assert result["dropped"]["LongestOnly"]["shorter"]["clips"] == 7
    kept = ShardIndex([tmp_path / "one" / "shards" / "*.tar"])
    assert kept.durations_s[0] == pytest.approx(max(durations) / 2, abs=1e-3)
    again = numbers(steps=[LongestOnly(), HalfUp()]).run(tmp_path / "one", 0)
    assert (again["shards_made"], again["shards_kept"]) == (0, 6)


def test_a_changed_step_makes_only_what_depends_on_it(tmp_path: Path) -> None:
    assert numbers(steps=[LongestOnly(), HalfUp()]).run(tmp_path, 0)["shards_made"] == 6
    changed = numbers(steps=[LongestOnly(), HalfUp(reason="too long")]).run(tmp_path, 0)
    assert (changed["shards_made"], changed["shards_kept"]) == (3, 3)


def test_clips_and_utterances_survive_the_way_to_disk(tmp_path: Path) -> None:
    numbers(steps=[HalfUp()]).run(tmp_path, 0)
    index = ShardIndex([tmp_path / "shards" / "*.tar"])
    for i in range(len(index)):
        sample = index.sample(i)
        assert sample_of(clip_of(sample, index.waveform(i))).to_json() == sample.to_json()
    for utterance in MicroWorld("dialogue", 2, 2).list_utterances(0, tmp_path).utterances:
        assert from_line(to_line(utterance)) == utterance
