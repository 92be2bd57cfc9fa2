"""A shard with any byte changed is found, and the sample is named."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from bcaudio.data.index_file import RECORD, index_path, open_index
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.data.verify import verify_shard


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    samples = []
    for i in range(20):
        codes = np.full((2, 8), i, np.int16)
        span = Span("seven", 0.0, 0.1, "user")
        sample = Sample(
            f"n-{i:06d}", "n", "train", "en", f"m{i}", "seven", (span,), duration_s=0.1, span_num_codes=(2,), codes=codes
        )
        samples.append((sample, rng.uniform(-0.5, 0.5, 2400).astype(np.float32)))
    return Path(write_shards(samples, tmp_path, "n-train", 100, {"v": 1})[0])


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def place(tar: Path, row: int, kind: str) -> tuple[int, int]:
    return open_index(tar).columns().members(row)[kind]


def test_sound_shard_has_no_problems(tar: Path) -> None:
    assert verify_shard(tar) == []


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        ("flac", "middle"),
        ("flac", "header"),
        ("flac", "padding"),
        ("json", "middle"),
        ("json", "header"),
        ("codes.npy", "middle"),
        ("codes.npy", "end"),
    ],
)
def test_a_changed_byte_of_the_tar_names_shard_and_sample(tar: Path, kind: str, where: str) -> None:
    offset, size = place(tar, 3, kind)
    at = {"middle": offset + size // 2, "header": offset - 500, "padding": offset + size, "end": offset + size - 1}[where]
    flip(tar, at)
    problems = verify_shard(tar)
    assert any("sha256" in problem for problem in problems)
    assert any(str(tar) in problem and "n-000003" in problem for problem in problems)
    assert not any("n-000002" in problem and "crc32" in problem for problem in problems)


def test_a_changed_byte_behind_the_last_sample_names_the_shard(tar: Path) -> None:
    flip(tar, tar.stat().st_size - 1)
    assert ["sha256" in problem for problem in verify_shard(tar)] == [True]


def test_every_changed_byte_of_the_index_is_found(tar: Path) -> None:
    index = Path(index_path(tar))
    whole = index.read_bytes()
    for at in {*range(0, len(whole), 29), *range(64)}:
        flip(index, at, 1 << at % 8)
        problems = verify_shard(tar)
        assert problems, f"byte {at}"
        assert all("\n" not in problem and str(tar)[:-4] in problem for problem in problems)
        index.write_bytes(whole)
    assert verify_shard(tar) == []


@pytest.mark.parametrize("part", ["record", "key", "speaker"])
def test_a_changed_byte_of_the_index_names_the_sample(tar: Path, part: str) -> None:
    index = Path(index_path(tar))
    content = index.read_bytes()
    records_at = 64 + int.from_bytes(content[48:56], "little")
    duration_at = RECORD.fields["duration"][1]
    flip(
        index,
        {
            "record": records_at + 3 * 64 + duration_at,
            "key": content.index(b"n-000003") + 1,
            "speaker": content.index(b'"m3"') + 1,
        }[part],
    )
    problems = verify_shard(tar)
    assert "bytes of the index have changed" in problems[0]
    assert any("n-000003" in problem for problem in problems[1:])


def test_corrupt_header_in_the_middle_is_found(tar: Path) -> None:
    offset, _ = place(tar, 10, "codes.npy")
    data = bytearray(tar.read_bytes())
    data[offset - 512 : offset - 400] = b"\xff" * 112
    tar.write_bytes(data)
    problems = "\n".join(verify_shard(tar))
    assert "sha256" in problems
    assert "a scan finds 30 members, its index has 60" in problems  # codes come first: 10 whole samples are left
    assert "header of n-000010.codes.npy is corrupt" in problems


def test_cut_tar_is_found(tar: Path) -> None:
    data = tar.read_bytes()
    tar.write_bytes(data[: len(data) // 2])
    problems = verify_shard(tar)
    assert f"{len(data) // 2} bytes, but its index says {len(data)}" in problems[0]
    assert any("n-000019.flac" in p and "the tar was cut" in p for p in problems)
    tar.unlink()
    assert verify_shard(tar) == [f"{tar}: the file is missing"]


@pytest.mark.parametrize(("name", "word"), [("link", "'link' is no plain file"), ("../x", "'../x' names a folder")])
def test_links_and_paths_in_a_tar_are_refused(tar: Path, name: str, word: str) -> None:
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tar, "a") as archive:
        archive.addfile(member, io.BytesIO())
    problems = verify_shard(tar)
    assert any(word in problem for problem in problems)
    assert any("bytes, but its index says" in problem or "sha256" in problem for problem in problems)


def test_index_with_a_sample_too_few_is_found(tar: Path) -> None:
    index = Path(index_path(tar))
    content = bytearray(index.read_bytes())
    records_at = 64 + int.from_bytes(content[48:56], "little")
    # 19 samples, as a writer would have left them that lost one
    del (
        content[records_at + 20 * 64 + 19 * 8 : records_at + 20 * 64 + 20 * 8],
        content[records_at + 19 * 64 : records_at + 20 * 64],
    )
    content[:records_at] = content[:records_at].replace(b'"num_samples": 20', b'"num_samples": 19')
    content[56:64] = len(content).to_bytes(8, "little")
    content[16:48] = hashlib.sha256(content[48:]).digest()
    index.write_bytes(content)
    assert ["a scan finds 60 members, its index has 57" in problem for problem in verify_shard(tar)] == [True]
