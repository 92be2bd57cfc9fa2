from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bcaudio.audio.io import write_audio
from bcaudio.data.index import ShardIndex
from bcaudio.data.shards import verify_shard
from data_prep.make_shards import MakeShards
from data_prep.sources.asterisk import Asterisk
from data_prep.sources.micro_world import MicroWorld
from data_prep.utterance import CorpusUnavailable, Listing, Part, Utterance

pytest.importorskip("espeakng_loader")


def job(workers: int = 1) -> MakeShards:
    return MakeShards([MicroWorld("numbers", 4, 1, samples_per_shard=3), MicroWorld("text_sums", 20, 2)], workers=workers)


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
    job(1).run(tmp_path / "one", 0)
    job(2).run(tmp_path / "two", 0)
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
    assert changed == {"numbers-train-000001.tar", "numbers-train-000001.index.json"}
    assert job().run(tmp_path, 1)["shards_made"] == 6  # another seed is other data


def test_layout_is_readable_and_sound(tmp_path: Path) -> None:
    job().run(tmp_path, 0)
    assert [p for path in sorted((tmp_path / "shards").glob("*.tar")) for p in verify_shard(path)] == []
    index = ShardIndex([tmp_path / "shards" / "*.tar"])
    assert len(index) == 54
    assert json.loads((tmp_path / "fingerprint.json").read_text()) == index.fingerprint
    texts = (tmp_path / "text.txt").read_text().splitlines()
    train = [index.sample(i) for i, entry in enumerate(index.entries) if entry.split == "train"]
    assert sorted(texts) == sorted(t for s in train for t in (s.text, s.translation, s.answer) if t)


def test_bad_recordings_go_to_quarantine_and_the_run_goes_on(tmp_path: Path) -> None:
    result = MakeShards([Recordings()], workers=1).run(tmp_path, 0)
    assert result["quarantined"] == {"empty": 1, "unreadable": 1}
    assert result["dropped"] == {"prompts": {"no text": 2}}
    assert result["num_samples"] == {"prompts-test": 1}
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(line["key"], line["reason"]) for line in lines] == [
        ("prompts-test-en-empty", "empty"),
        ("prompts-test-en-broken", "unreadable"),
    ]
    again = MakeShards([Recordings()], workers=1).run(tmp_path, 0)
    assert again["shards_kept"] == 1
    assert again["quarantined"] == result["quarantined"]


def test_too_long_clips_go_to_quarantine_with_their_length(tmp_path: Path) -> None:
    result = MakeShards([Recordings()], workers=1, max_duration_s=0.4).run(tmp_path, 0)
    assert result["quarantined"] == {"empty": 1, "too long": 1, "unreadable": 1}
    assert '"value": 0.5' in (tmp_path / "quarantine.jsonl").read_text()


def test_unavailable_corpus_is_left_out_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = MakeShards([Unavailable(), MicroWorld("text_sums", 2, 0)], workers=1).run(tmp_path, 0)
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
        MakeShards([MicroWorld("text_sums", 1, 0), MicroWorld("text_sums", 1, 0)])
    with pytest.raises(ValueError, match="workers is 0"):
        MakeShards([MicroWorld("text_sums", 1, 0)], workers=0)
