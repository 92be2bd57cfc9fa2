"""Shards behind URLs, in fsspec's memory."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import index_path
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import read_member, rewrite_with_codes, write_shards
from bcaudio.data.storage import file_system, join
from bcaudio.data.verify import verify_shard

fsspec = pytest.importorskip("fsspec")


def write(folder: str | Path, count: int = 5) -> list:
    samples = []
    for i in range(count):
        span = Span("x", 0.0, 0.1, "user")
        sample = Sample(f"n-{i}", "n", "train", "en", "s", "x", (span,), duration_s=0.1)
        samples.append((sample, np.full(2400, 0.1 * i, np.float32)))
    return write_shards(samples, folder, "n-train", 2, {"v": 1})


@pytest.fixture
def url() -> str:
    yield "memory://bucket/shards"
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def test_shards_behind_a_url_equal_local_ones(url: str, tmp_path: Path) -> None:
    tars, here = write(url), write(tmp_path)
    assert tars == [f"{url}/n-train-00000{i}.tar" for i in range(3)]
    memory = fsspec.filesystem("memory")
    for tar, local in zip(tars, here, strict=True):
        assert memory.cat_file(tar) == local.read_bytes()
        assert memory.cat_file(index_path(tar)) == Path(index_path(local)).read_bytes()
    index = pickle.loads(pickle.dumps(ShardIndex([f"{url}/*.tar"])))
    assert [index.sample(i).key for i in range(5)] == [f"n-{i}" for i in range(5)]
    np.testing.assert_array_equal(index.waveform(4), ShardIndex(here).waveform(4))
    assert [problem for tar in tars for problem in verify_shard(tar)] == []


def test_codes_are_added_behind_a_url(url: str) -> None:
    tar = write(url, 2)[0]
    out = rewrite_with_codes(tar, join(url, "codes"), {f"n-{i}": (np.full((3, 2), i), [3]) for i in range(2)}, {"t": 1})
    assert out == f"{url}/codes/n-train-000000.tar"
    assert ShardIndex([out]).sample(1).codes.tolist() == [[1, 1]] * 3


def test_a_vanished_object_is_named(url: str) -> None:
    tar = write(url)[1]
    index = ShardIndex([f"{url}/*.tar"])
    fsspec.filesystem("memory").rm_file("/bucket/shards/n-train-000001.tar")
    with pytest.raises(FileNotFoundError, match=r"memory:///?bucket/shards/n-train-000001\.tar: there is no such object"):
        index.waveform(2)
    with pytest.raises(FileNotFoundError, match=r"n-train-000001\.tar: no such tar file"):
        ShardIndex([tar])
    with pytest.raises(FileNotFoundError, match="nothing"):
        ShardIndex([f"{url}/nothing-*.tar"])
    fsspec.filesystem("memory").rm_file("/bucket/shards/n-train-000002.idx")
    with pytest.raises(FileNotFoundError, match=r"n-train-000002\.idx: there is no such object.*the shard is unfinished"):
        ShardIndex([f"{url}/*.tar"])
    assert verify_shard(tar) == [f"{tar}: the file is missing"]


def test_a_cut_object_is_named(url: str) -> None:
    tar = write(url)[0]
    index = ShardIndex([tar])
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/shards/n-train-000000.tar", memory.cat_file(tar)[:1000])
    with pytest.raises(ValueError, match=r"n-train-000000\.tar: ends inside n-1\.flac"):
        index.waveform(1)
    with pytest.raises(ValueError, match="ends at byte 1000"):
        read_member(tar, 900, 200)
    with pytest.raises(ValueError, match="1000 bytes on disk"):
        ShardIndex([tar])


def test_an_unknown_kind_of_url_names_the_extra() -> None:
    with pytest.raises(ValueError, match=r"nosuch://x: cannot be opened .*pip install bcaudio\[remote\]"):
        file_system("nosuch://x")
