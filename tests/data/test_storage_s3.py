"""Shards behind a real S3 server process on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import index_path
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.data.verify import verify_shard

pytest.importorskip("moto.server")
s3fs = pytest.importorskip("s3fs")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        for _ in range(300):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server did not start"
                time.sleep(0.1)
        s3fs.S3FileSystem().mkdir("bcaudio-test")
        yield "s3://bcaudio-test"
    finally:
        server.terminate()
        server.wait(10)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        s3fs.S3FileSystem.clear_instance_cache()


def write(folder: str | Path) -> list:
    samples = []
    for i in range(5):
        sample = Sample(f"n-{i}", "n", "train", "en", "s", "x", (Span("x", 0.0, 0.1, "user"),), duration_s=0.1)
        samples.append((sample, np.full(2400, 0.1 * i, np.float32)))
    return write_shards(samples, folder, "n-train", 2, {"v": 1})


class Waveforms(Dataset):
    def __init__(self, index: ShardIndex) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> np.ndarray:
        return self.index.waveform(i)


def test_shards_in_s3_equal_local_ones(bucket: str, tmp_path: Path) -> None:
    tars, here = write(f"{bucket}/a/shards"), write(tmp_path)
    store = s3fs.S3FileSystem()
    for tar, local in zip(tars, here, strict=True):
        assert store.cat_file(tar) == local.read_bytes()
        assert store.cat_file(index_path(tar)) == Path(index_path(local)).read_bytes()
    index = ShardIndex(f"{bucket}/a/shards/*.tar")
    assert [index.sample(i).key for i in range(5)] == [f"n-{i}" for i in range(5)]
    np.testing.assert_array_equal(index.waveform(4), ShardIndex(here).waveform(4))
    assert [problem for tar in tars for problem in verify_shard(tar)] == []


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_read_from_s3(bucket: str, tmp_path: Path, method: str) -> None:
    write(f"{bucket}/{method}")
    index = ShardIndex(f"{bucket}/{method}/*.tar")
    index.waveform(0)  # a connection is open before the workers start
    loader = DataLoader(Waveforms(index), batch_size=None, num_workers=2, multiprocessing_context=method)
    found = [np.asarray(waveform) for waveform in loader]
    for i, waveform in enumerate(found):
        np.testing.assert_array_equal(waveform, index.waveform(i))
    assert len(found) == 5


def test_a_vanished_object_is_named(bucket: str) -> None:
    write(f"{bucket}/v")
    index = ShardIndex(f"{bucket}/v/*.tar")
    store = s3fs.S3FileSystem()
    store.rm_file(f"{bucket}/v/n-train-000001.tar")
    with pytest.raises(FileNotFoundError, match=r"s3://bcaudio-test/v/n-train-000001\.tar: there is no such object"):
        index.waveform(2)
    store.rm_file(f"{bucket}/v/n-train-000002.idx")
    with pytest.raises(FileNotFoundError, match=r"s3://bcaudio-test/v/n-train-000002\.idx: there is no such object"):
        ShardIndex(f"{bucket}/v/*.tar")
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket/\*\.tar: no such tar file"):
        ShardIndex("s3://no-such-bucket/*.tar")


def test_a_cut_object_is_named(bucket: str) -> None:
    tar = write(f"{bucket}/c")[0]
    index = ShardIndex(tar)
    store = s3fs.S3FileSystem()
    store.pipe_file(tar, store.cat_file(tar)[:1000])
    with pytest.raises(ValueError, match=r"n-train-000000\.tar: ends inside n-1\.json"):
        index.sample(1)
    with pytest.raises(ValueError, match="1000 bytes on disk, but its index says"):
        ShardIndex(tar)
