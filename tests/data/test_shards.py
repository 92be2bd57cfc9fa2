from __future__ import annotations

import errno
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from bcaudio.data import shards
from bcaudio.data.index_file import index_path, open_index, read_header
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import read_member, rewrite_with_codes, write_shards
from bcaudio.data.verify import verify_shard


def make_samples(count: int, duration_s: float = 0.1) -> list[tuple[Sample, np.ndarray]]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        sample = Sample(
            key=f"numbers-train-en-{i:06d}",
            corpus="numbers",
            split="train",
            language="en",
            speaker="m3",
            text="seven",
            spans=(Span("seven", 0.0, duration_s, "user"),),
            duration_s=duration_s,
        )
        made.append((sample, rng.uniform(-0.5, 0.5, round(duration_s * 24_000)).astype(np.float32)))
    return made


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    return write_shards(make_samples(20), tmp_path, "numbers-train", 100, {"v": 1})[0]


def test_shards_read_back_through_webdataset(tmp_path: Path) -> None:
    samples = make_samples(5)
    paths = write_shards(samples, tmp_path, "numbers-train", 2, {})
    assert [path.name for path in paths] == [f"numbers-train-00000{i}.tar" for i in range(3)]
    read = list(webdataset.WebDataset([str(path) for path in paths], shardshuffle=False))
    assert [item["__key__"] for item in read] == [sample.key for sample, _ in samples]
    for item, (sample, waveform) in zip(read, samples, strict=True):
        assert Sample.from_json(item["json"]) == sample
        decoded, rate = soundfile.read(io.BytesIO(item["flac"]), dtype="float32")
        assert rate == 24_000
        np.testing.assert_allclose(decoded, waveform, atol=1 / 32768)


def test_index_offsets_point_at_the_members(tar: Path) -> None:
    assert read_header(tar)["num_samples"] == 20
    assert read_header(tar)["fingerprint"] == {"v": 1}
    columns = open_index(tar).columns()
    for row in range(20):
        members = columns.members(row)
        assert sorted(members) == ["flac", "json"]
        assert json.loads(read_member(tar, *members["json"]))["key"] == columns.key(row) == f"numbers-train-en-{row:06d}"
        assert read_member(tar, *members["flac"])[:4] == b"fLaC"


def test_equal_samples_give_equal_bytes(tmp_path: Path, tar: Path) -> None:
    again = write_shards(make_samples(20), tmp_path / "b", "numbers-train", 100, {"v": 1})[0]
    assert again.read_bytes() == tar.read_bytes()
    assert index_path(again).read_bytes() == index_path(tar).read_bytes()


def test_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(make_samples(2), tmp_path, "numbers-train", 2, {})
    assert list(tmp_path.iterdir()) == []


def test_rewrite_with_codes_keeps_audio_and_adds_codes(tmp_path: Path, tar: Path) -> None:
    codes = {f"numbers-train-en-{i:06d}": (np.full((2, 8), i), [2]) for i in range(20)}
    out = rewrite_with_codes(tar, tmp_path / "coded", codes, {"tokenizer": "t"})
    assert verify_shard(out) == []
    before, after = open_index(tar).columns(), open_index(out).columns()
    for row in range(20):
        old, new = before.members(row), after.members(row)
        assert read_member(out, *new["flac"]) == read_member(tar, *old["flac"])
        assert after.entry(row).num_codes == 2
    assert read_header(out)["totals"]["num_codes"] == 40
    del codes["numbers-train-en-000007"]
    with pytest.raises(ValueError, match=r"no codes for numbers-train-en-000007 \(1 in all\)"):
        rewrite_with_codes(tar, tmp_path / "x", codes, {})


def test_same_key_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="numbers-train-en-000000' comes twice"):
        write_shards(make_samples(1) * 2, tmp_path, "n", 2, {})
