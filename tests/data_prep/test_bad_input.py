"""Bad input through the real pipeline: everything that was listed is kept, or dropped under its name with its seconds."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import struct
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bcaudio.data.index import ShardIndex
from bcaudio.data.index_file import open_index
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.data.verify import verify_shard
from data_prep.pipeline import Pipeline
from data_prep.sources.folder import Folder
from data_prep.sources.manifest import Manifest
from data_prep.sources.webdataset_tars import WebDatasetTars
from data_prep.utterance import Clip, Drops

RATE = 16_000
ROOT = Path(__file__).resolve().parents[2]


def sound(path: Path, duration_s: float = 1.0, seed: int = 0) -> bytes:
    """Noise as 16-bit `path`; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).uniform(-0.3, 0.3, round(duration_s * RATE)), RATE, subtype="PCM_16")
    return path.read_bytes()


def manifest(folder: Path, *lines: Mapping[str, Any], **options: Any) -> Manifest:
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Manifest(path, "en", corpus="m", **options)


def dropped(out: Path) -> dict[str, tuple[str, float]]:
    """Key without corpus and split -> (reason, seconds) of every line in drops.jsonl."""
    drops = [json.loads(line) for line in (out / "drops.jsonl").read_text().splitlines()]
    return {drop["key"].split("-", 2)[2]: (drop["reason"], drop["duration_s"]) for drop in drops}


def num_accounted(result: Mapping[str, Any]) -> int:
    """Samples kept, clips dropped, lines dropped when listed."""
    drops = sum(entry["clips"] for reasons in result["dropped"].values() for entry in reasons.values())
    listing = sum(sum(reasons.values()) for reasons in result["dropped_when_listed"].values())
    return sum(result["num_samples"].values()) + drops + listing


def kept(out: Path) -> list[str]:
    index = ShardIndex([out / "shards" / "*.tar"])
    return [index.key(i).split("-", 2)[2] for i in range(len(index))]


def test_damaged_recordings_are_dropped_by_name_and_the_rest_is_kept(tmp_path: Path) -> None:
    wav, flac = sound(tmp_path / "good.wav", 2.0), sound(tmp_path / "good.flac", 2.0)
    files = {
        "zero.wav": b"",
        "short.flac": flac[: len(flac) // 2],
        "short.wav": wav[: len(wav) // 2],  # the header states twice the bytes that are there
        "no-rate.wav": wav[:24] + struct.pack("<II", 0, 0) + wav[32:],
        "absurd-rate.wav": wav[:24] + struct.pack("<II", 1_000_000, 2_000_000) + wav[32:],
        "torn-rate.wav": wav[:24] + struct.pack("<I", 44_100) + wav[28:],  # disagrees with its bytes per second
        "fast-rate.wav": wav[:24] + struct.pack("<II", 44_100, 88_200) + wav[32:],  # disagrees with the manifest alone
        "slow-rate.wav": wav[:24] + struct.pack("<II", 8_000, 16_000) + wav[32:],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    names = ["good.wav", "good.flac", *files, "gone.wav"]
    lines = [{"key": name.replace(".", "_"), "audio": name, "text": "x", "duration_s": 2.0} for name in names]
    source = manifest(tmp_path, *lines, check_audio=False, samples_per_shard=4)
    with open(tmp_path / "m.jsonl", "ab") as file:
        file.write('{"audio": "good.wav", "text": "ü"}\n'.encode("latin-1"))
    out = tmp_path / "out"
    result = Pipeline([source]).run(out, 0)
    assert kept(out) == ["good_wav", "good_flac"]
    assert result["dropped_when_listed"] == {"m": {"wrong text encoding": 1}}
    assert dropped(out) == {
        "zero_wav": ("empty file", 0.0),
        "short_flac": ("unreadable", 2.0),
        "short_wav": ("unreadable", 0.0),
        "no-rate_wav": ("unreadable", 0.0),
        "absurd-rate_wav": ("wrong sample rate in the header", 0.0),
        "torn-rate_wav": ("wrong sample rate in the header", 0.0),
        "fast-rate_wav": ("wrong length", round(2 * RATE / 44_100, 4)),
        "slow-rate_wav": ("wrong length", 4.0),
        "gone_wav": ("not found", 0.0),
    }
    assert num_accounted(result) == len(names) + 1


@contextmanager
def peak_below(num_bytes: float) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


def hour_of_silence(path: Path, rate: int, channels: int) -> None:
    """A wav of one hour that takes no disk: its samples are a hole."""
    size = 3600 * rate * channels * 2
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    with open(path, "wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + struct.pack("<I", 16) + fmt)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


def without_length(flac: bytes) -> bytes:
    """As an encoder leaves it that writes to a pipe: the 36 bits of STREAMINFO that count the samples are 0."""
    (fields,) = struct.unpack(">Q", flac[18:26])
    return flac[:18] + struct.pack(">Q", fields >> 36 << 36) + flac[26:]


def test_recordings_of_an_hour_are_dropped_with_their_seconds_and_cost_no_memory(tmp_path: Path) -> None:
    hour_of_silence(tmp_path / "hour.wav", 48_000, 2)  # decoded: 1.4 GB
    with soundfile.SoundFile(tmp_path / "hour.flac", "w", 8_000, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros(60 * 8_000, np.int16))  # decoded: 115 MB
    (tmp_path / "pipe.flac").write_bytes(without_length((tmp_path / "hour.flac").read_bytes()))
    lines = [{"key": name, "audio": f"{name}.{kind}", "text": "x"} for name, kind in (("hour", "wav"), ("pipe", "flac"))]
    lines.append({"key": "cut", "audio": "hour.wav", "text": "x", "start_s": 3000, "end_s": 3002})
    with peak_below(50e6):
        result = Pipeline([manifest(tmp_path, *lines)]).run(tmp_path / "out", 0)
    found = dropped(tmp_path / "out")
    reason, seconds = found.pop("pipe")  # libsndfile fails at the end of such a file; counted is what was read before, in blocks
    assert reason == "unreadable"
    assert 3600 - 2**20 / 8_000 <= seconds <= 3600
    assert found == {"hour": ("too long", 3600.0), "cut": ("empty", 2.0)}
    assert result["dropped"]["read"]["too long"] == {"clips": 1, "hours": 1.0}
    assert num_accounted(result) == 3


@pytest.mark.parametrize(("name", "size", "duration_s"), [("a.g722", 3600 * 8_000, 3600.0), ("b.m4a", 0, 30.0)])
def test_what_pyav_decodes_is_measured_before_it_is_decoded(tmp_path: Path, name: str, size: int, duration_s: float) -> None:
    av = pytest.importorskip("av")
    if size:
        (tmp_path / name).write_bytes(bytes(size))
    else:
        with av.open(str(tmp_path / name), "w") as container:
            stream = container.add_stream("aac", rate=RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, round(duration_s * RATE)), np.float32), "fltp", "mono")
            frame.sample_rate = RATE
            container.mux([*stream.encode(frame), *stream.encode(None)])
    source = manifest(tmp_path, {"key": "k", "audio": name, "text": "x"})
    with peak_below(50e6):  # an hour of g722, decoded: 230 MB
        Pipeline([source], max_duration_s=10.0).run(tmp_path / "out", 0)
    reason, seconds = dropped(tmp_path / "out")["k"]
    assert reason == "too long"
    assert seconds == pytest.approx(duration_s, abs=0.2)


def test_texts_in_a_wrong_encoding_are_counted(tmp_path: Path) -> None:
    for number, encoded in enumerate([b"fine", "größer".encode("latin-1"), "three".encode("utf-16")]):
        sound(tmp_path / f"in/{number}.wav")
        (tmp_path / f"in/{number}.txt").write_bytes(encoded)
    result = Pipeline([Folder(tmp_path / "in", "de")]).run(tmp_path / "out", 0)
    assert result["dropped_when_listed"] == {"folder": {"wrong text encoding": 2}}
    assert (kept(tmp_path / "out"), num_accounted(result)) == (["0"], 3)


def test_equal_keys_in_one_shard_and_across_shards_leave_the_first(tmp_path: Path) -> None:
    keys = ["a", "b", "b", "c", "a", "a", "d"]  # in shards of two: the third would hold copies alone
    lines = [{"key": key, "text": f"line {number} \u2028"} for number, key in enumerate(keys)]
    result = Pipeline([manifest(tmp_path, *lines, samples_per_shard=2)]).run(tmp_path / "out", 0)
    index = ShardIndex([tmp_path / "out" / "shards" / "*.tar"])
    found = [(index.sample(i).key, index.sample(i).text) for i in range(len(index))]
    assert found == [(f"m-train-{key}", f"line {number}") for key, number in (("a", 0), ("b", 1), ("c", 3), ("d", 6))]
    assert result["dropped_when_listed"] == {"m": {"duplicate key": 3}}
    assert num_accounted(result) == len(keys)
    assert len(list((tmp_path / "out" / "plan").iterdir())) == len(list((tmp_path / "out" / "shards").glob("*.tar"))) == 3


def tar_of(path: Path, members: Mapping[str, bytes | str]) -> None:
    """A str is the target of a symlink."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            tar.addfile(info, None if isinstance(content, str) else io.BytesIO(content))


def test_broken_and_hostile_tars_are_named_and_nothing_leaves_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flac = sound(tmp_path / "a.flac")
    secret = tmp_path / "secret.flac"
    secret.write_bytes(flac)
    tar_of(
        tmp_path / "tars/0.tar",
        {"../out.flac": flac, "../out.txt": b"x", "link.flac": str(secret), "link.txt": b"x", "ok.flac": flac, "ok.txt": b"x"},
    )
    tar_of(
        tmp_path / "tars/1.tar", {f"{key}.{kind}": flac if kind == "flac" else b"x" for key in "abc" for kind in ("flac", "txt")}
    )
    content = bytearray((tmp_path / "tars/1.tar").read_bytes())
    with tarfile.open(tmp_path / "tars/1.tar") as tar:
        broken = tar.getmember("b.flac").offset
    content[broken + 148 : broken + 156] = b"garbage!"
    (tmp_path / "tars/1.tar").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    result = Pipeline([WebDatasetTars(tmp_path / "tars", "en", corpus="w")]).run(tmp_path / "out", 0)
    assert kept(tmp_path / "out") == ["0-ok-" + kept(tmp_path / "out")[0][-8:], "1-a-" + kept(tmp_path / "out")[1][-8:]]
    # two members lead out, one is a link, whose text is then without sound; what lies behind the broken header is unknown
    assert result["dropped_when_listed"] == {"w": {"unsafe path": 3, "missing audio file": 1, "corrupt tar header": 1}}
    assert capsys.readouterr().err == (
        f"WARNING: {tmp_path}/tars/1.tar: corrupt tar header (from byte {broken} on); "
        "what lies behind is left out, copy the tar again\n"
    )
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)) == before


class PassAll:
    """A survey that has nothing to say: what comes before it is kept in shards of its own."""

    def look(self, clip: Clip) -> None:
        return None

    def judge(self, seen: Iterator[tuple[str, Any]]) -> Mapping[str, Any]:
        return {}

    def apply(self, clip: Clip, verdict: Any, drops: Drops) -> Clip | None:
        return clip


@pytest.mark.parametrize("kind", ["header", "sound"])
def test_a_shard_between_two_phases_that_was_damaged_is_named_and_never_read(tmp_path: Path, kind: str) -> None:
    sound(tmp_path / "a.wav")
    lines = [{"key": f"k{number}", "audio": "a.wav", "text": "x"} for number in range(4)]
    pipeline = Pipeline([manifest(tmp_path, *lines)], steps=[PassAll()])
    out = tmp_path / "out"
    pipeline.run(out, 0)
    before = {path.name: path.read_bytes() for path in (out / "shards").iterdir()}
    damaged = out / "phase-0" / "shards" / "m-train-000000.tar"
    offset, size = open_index(damaged).columns().members(2)["flac"]
    content = bytearray(damaged.read_bytes())
    content[offset - 512 + 150 if kind == "header" else offset + size // 2] ^= 1
    damaged.write_bytes(content)
    (out / "shards" / "m-train-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"phase-0/shards/m-train-000000\.tar: bytes have changed since .*; delete it and run"):
        pipeline.run(out, 0)
    damaged.unlink()
    assert pipeline.run(out, 0)["shards_made"] == 2
    assert {path.name: path.read_bytes() for path in (out / "shards").iterdir()} == before


class ServerGone:
    """A step whose server does not answer."""

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            raise ConnectionError(f"http://nowhere: no answer for {clip.utterance.key}")
            yield clip


def test_a_server_that_is_gone_stops_the_run_instead_of_emptying_it(tmp_path: Path) -> None:
    sound(tmp_path / "a.wav")
    with pytest.raises(ConnectionError, match="http://nowhere: no answer for m-train-k"):
        Pipeline([manifest(tmp_path, {"key": "k", "audio": "a.wav", "text": "x"})], [ServerGone()]).run(tmp_path / "out", 0)
    assert list((tmp_path / "out" / "shards").iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to /dev/full")
def test_a_full_disk_is_named_with_the_shard_that_was_not_written(tmp_path: Path) -> None:
    span = Span("x", 0.0, 1.0, "user")
    sample = Sample("n-0", "n", "train", "en", "s", "x", (span,), duration_s=1.0)
    waveform = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000).astype(np.float32)
    # what the writer opens under this name is a device that is always full
    (tmp_path / f"n-000000.tar.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device; free some space .* run the same command again") as caught:
        write_shards([(sample, waveform)], tmp_path, "n", 1, {})
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "n-000000.tar"))
    assert list(tmp_path.iterdir()) == []


RECIPE = """
name: full
seed: 0
out: OUT
workers: WORKERS
job:
  _target_: data_prep.pipeline.Pipeline
  corpora:
    - {_target_: data_prep.sources.manifest.Manifest, path: MANIFEST, language: en, corpus: m, samples_per_shard: 2}
"""


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_disk_that_takes_no_more_leaves_no_half_shard_and_the_run_goes_on_later(tmp_path: Path, workers: int) -> None:
    sound(tmp_path / "a.wav")
    source = manifest(tmp_path, *({"key": f"k{number}", "audio": "a.wav", "text": "x"} for number in range(4)))
    recipe, out, limit = tmp_path / "full.yaml", tmp_path / "out", 60_000  # bytes; a shard has more
    recipe.write_text(RECIPE.replace("OUT", str(out)).replace("MANIFEST", source.path).replace("WORKERS", str(workers)))
    command = [sys.executable, "-m", "data_prep", "run", str(recipe)]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    failed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, preexec_fn=small_files, timeout=60)
    assert failed.returncode == 2
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "File too large; free some space or choose another out=, then run the same command again" in failed.stderr
    assert f"{out}/shards/m-train-00000" in failed.stderr
    assert list((out / "shards").iterdir()) == []
    assert json.loads((out / "stage.json").read_text())["status"] == "failed"
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert kept(out) == ["k0", "k1", "k2", "k3"]
    assert [problem for tar in (out / "shards").glob("*.tar") for problem in verify_shard(tar)] == []


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    settings = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bad-input")
    yield "s3://bad-input"
    server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_a_recording_that_vanished_from_s3_is_named_and_the_others_are_kept(tmp_path: Path, bucket: str) -> None:
    import s3fs

    store, wav = s3fs.S3FileSystem(), sound(tmp_path / "a.wav")
    for number in range(3):
        store.pipe_file(f"{bucket}/{number}.wav", wav)
    lines = [{"key": str(number), "audio": f"{bucket}/{number}.wav", "text": "x"} for number in range(3)]
    store.ls(bucket)  # a listing that is remembered must not bring the object back
    store.pipe_file(f"{bucket}/m.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    store.rm_file(f"{bucket}/1.wav")
    result = Pipeline([Manifest(f"{bucket}/m.jsonl", "en", corpus="m")]).run(tmp_path / "out", 0)
    assert kept(tmp_path / "out") == ["0", "2"]
    assert dropped(tmp_path / "out") == {"1": ("not found", 0.0)}
    assert f"{bucket}/1.wav" in (tmp_path / "out" / "drops.jsonl").read_text()
    assert num_accounted(result) == 3
    store.rm_file(f"{bucket}/m.jsonl")
    with pytest.raises(FileNotFoundError, match=r"bad-input/m\.jsonl"):
        Pipeline([Manifest(f"{bucket}/m.jsonl", "en", corpus="m")]).run(tmp_path / "again", 0)
