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
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import index_path, read_index, read_member, rewrite_with_codes, verify_shard, write_shards


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
    content = read_index(tar)
    assert content["num_samples"] == 20
    assert content["fingerprint"] == {"v": 1}
    for entry in content["samples"]:
        assert json.loads(read_member(tar, *entry["members"]["json"]))["key"] == entry["key"]
        assert read_member(tar, *entry["members"]["flac"])[:4] == b"fLaC"


def test_equal_samples_give_equal_bytes(tmp_path: Path, tar: Path) -> None:
    again = write_shards(make_samples(20), tmp_path / "b", "numbers-train", 100, {"v": 1})[0]
    assert again.read_bytes() == tar.read_bytes()
    assert index_path(again).read_bytes() == index_path(tar).read_bytes()


def test_sound_shard_has_no_problems(tar: Path) -> None:
    assert verify_shard(tar) == []


def test_corrupt_header_in_the_middle_is_found(tar: Path) -> None:
    offset = read_index(tar)["samples"][10]["members"]["flac"][0]
    data = bytearray(tar.read_bytes())
    data[offset - 512 : offset - 400] = b"\xff" * 112
    tar.write_bytes(data)
    problems = "\n".join(verify_shard(tar))
    assert "sha256" in problems
    assert "a scan finds 20 members, its index has 40" in problems  # flac comes before json: 10 whole samples are left
    assert "header of numbers-train-en-000010.flac is corrupt" in problems


def test_cut_tar_is_found(tar: Path) -> None:
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    problems = verify_shard(tar)
    assert f"{len(data) // 2} bytes, but its index says {len(data)}" in problems[0]
    assert any("numbers-train-en-000019.flac" in p and "the tar was cut" in p for p in problems)


def test_count_unlike_the_index_is_found(tar: Path) -> None:
    content = read_index(tar)
    index_path(tar).write_text(json.dumps({**content, "samples": content["samples"][:-1]}))
    problems = "\n".join(verify_shard(tar))
    assert "lists 19 samples, but its num_samples is 20" in problems
    assert "a scan finds 40 members, its index has 38" in problems


def test_changed_audio_is_found_by_checksum(tar: Path) -> None:
    offset, size = read_index(tar)["samples"][3]["members"]["flac"]
    data = bytearray(tar.read_bytes())
    data[offset + size // 2] ^= 1
    tar.write_bytes(data)
    assert any("sha256" in problem for problem in verify_shard(tar))


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
    for before, after in zip(read_index(tar)["samples"], read_index(out)["samples"], strict=True):
        assert read_member(out, *after["members"]["flac"]) == read_member(tar, *before["members"]["flac"])
        assert after["span_num_codes"] == [2]
    del codes["numbers-train-en-000007"]
    with pytest.raises(ValueError, match=r"no codes for numbers-train-en-000007 \(1 in all\)"):
        rewrite_with_codes(tar, tmp_path / "x", codes, {})


def test_same_key_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="numbers-train-en-000000' comes twice"):
        write_shards(make_samples(1) * 2, tmp_path, "n", 2, {})
