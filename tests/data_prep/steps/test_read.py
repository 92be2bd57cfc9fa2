from __future__ import annotations

import io
import os
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from bcaudio.audio.io import resample
from data_prep.steps.read import read_recording
from data_prep.utterance import Rejected

RATE = 16_000
PCM = np.random.default_rng(0).integers(-9000, 9000, 2 * RATE).astype(np.int16)  # two seconds
SAMPLES = PCM.astype(np.float32) / 32768


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, PCM, RATE)
    return tmp_path


def refused(audio: str, root: Path, start_s: float = 0.0, end_s: float | None = None) -> str:
    with pytest.raises(Rejected) as caught:
        read_recording(audio, root, start_s, end_s, RATE)
    assert str(root) not in str(caught.value)  # the same in every scratch folder
    return caught.value.reason


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@pytest.mark.parametrize(
    ("start_s", "end_s", "first", "last"), [(0.0, None, 0, 32_000), (0.5, 0.75, 8_000, 12_000), (1.5, 2.05, 24_000, 32_000)]
)
def test_stretch_is_exact(root, name, start_s, end_s, first, last):
    waveform = read_recording(name, root, start_s, end_s, RATE)
    assert waveform.dtype == np.float32
    assert np.array_equal(waveform, SAMPLES[first:last])
    assert np.array_equal(read_recording(str(root / name), Path("/nowhere"), start_s, end_s, RATE), waveform)
    assert np.array_equal(read_recording(f"file://{root / name}", Path("/nowhere"), start_s, end_s, RATE), waveform)


def test_stretch_is_resampled_and_two_channels_are_averaged(root):
    soundfile.write(root / "two.wav", np.stack([PCM, np.zeros_like(PCM)], 1), RATE)
    waveform = read_recording("two.wav", root, 0.5, 1.0, 24_000)
    np.testing.assert_allclose(waveform, resample(SAMPLES[8_000:16_000] / 2, RATE, 24_000), atol=1e-6)


@pytest.mark.parametrize(
    "stretch", [(2.0, None), (0.0, 2.2), (-0.1, 1.0), (1.0, 1.0), (1.0, 0.5), (float("nan"), None), (0.0, float("inf"))]
)
def test_stretch_outside_the_recording_is_refused(root, stretch):
    assert refused("a.flac", root, *stretch) == "no such stretch"


def test_only_the_stretch_is_read(root, monkeypatch):
    pcm = np.tile(PCM, 60)  # two minutes
    soundfile.write(root / "long.wav", pcm, RATE)
    read, opened = [], open

    class Counted(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

        def readinto(self, buffer):
            count = super().readinto(buffer)
            read.append(count)
            return count

    monkeypatch.setattr(
        "builtins.open", lambda path, mode="r", **more: Counted(path) if mode == "rb" else opened(path, mode, **more)
    )
    waveform = read_recording("long.wav", root, 60.0, 61.0, RATE)
    assert np.array_equal(waveform, SAMPLES[:RATE])
    assert 32_000 <= sum(read) < 100_000  # of 3.8 MB


def test_g722_and_m4a_are_cut_after_decoding(root):
    pytest.importorskip("av")
    (root / "a.g722").write_bytes(bytes(range(256)) * 50)  # 8000 bytes a second
    whole = read_recording("a.g722", root, 0.0, None, RATE)
    assert len(whole) == 25_600
    assert np.array_equal(read_recording("a.g722", root, 0.5, 1.0, RATE), whole[8_000:16_000])
    assert refused("a.g722", root, 1.0, 2.0) == "no such stretch"
    (root / "b.m4a").write_bytes(b"no audio" * 100)
    assert refused("b.m4a", root) == "unreadable"


@pytest.fixture
def tar(root: Path) -> Path:
    """Good and bad members."""
    (root / "secret.wav").write_bytes((root / "a.wav").read_bytes())
    with tarfile.open(root / "x.tar", "w") as file:
        file.add(root / "a.flac", "in/a.flac")
        for name, kind, target in (
            ("sym.wav", tarfile.SYMTYPE, "secret.wav"),
            ("hard.wav", tarfile.LNKTYPE, "in/a.flac"),
            ("in", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
        file.add(root / "a.wav", "../out.wav")
    return root / "x.tar"


def test_member_of_a_tar_is_read_without_unpacking(root, tar):
    before = sorted(os.listdir(root))
    for audio in ("x.tar#in/a.flac", f"{tar}#in/a.flac", f"file://{tar}#in/a.flac"):
        assert np.array_equal(read_recording(audio, root, 0.5, 1.0, RATE), SAMPLES[8_000:16_000])
    assert sorted(os.listdir(root)) == before


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("../out.wav", "unsafe path"),
        ("/etc/passwd", "unsafe path"),
        ("sym.wav", "unsafe path"),
        ("hard.wav", "unsafe path"),
        ("in", "not found"),
        ("none.wav", "not found"),
    ],
)
def test_bad_members_are_refused(root, tar, member, reason):
    assert refused(f"x.tar#{member}", root) == reason
    assert refused(f"file://{tar}#{member}", Path("/nowhere")) == reason


def test_tar_that_was_written_anew_is_read_anew(root, tar):
    read_recording("x.tar#in/a.flac", root, 0.0, None, RATE)
    soundfile.write(root / "b.flac", PCM[::-1], RATE)
    with tarfile.open(tar, "w") as file:
        file.add(root / "a.wav", "first.wav")
        file.add(root / "b.flac", "in/a.flac")
    assert np.array_equal(read_recording("x.tar#in/a.flac", root, 0.0, None, RATE), SAMPLES[::-1])


def test_broken_tar_is_unreadable(root):
    (root / "bad.tar").write_bytes(b"no tar" * 200)
    assert refused("bad.tar#a.wav", root) == "unreadable"


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ("none.wav", "not found"),
        ("a.wav/b.wav", "not found"),
        ("", "not found"),
        ("file:///nothing/here.wav", "not found"),
        ("../a.wav", "unsafe path"),
    ],
)
def test_bad_paths_are_refused(root, audio, reason):
    assert refused(audio, root) == reason


def test_path_that_stays_below_root_may_hold_dots(root):
    (root / "sub").mkdir()
    assert len(read_recording("sub/../a.wav", root, 0.0, None, RATE)) == 32_000


def test_damaged_files_are_told_apart(root):
    flac, wav = (root / "a.flac").read_bytes(), (root / "a.wav").read_bytes()
    soundfile.write(root / "a.mp3", PCM, RATE)
    mp3 = (root / "a.mp3").read_bytes()
    damaged = {
        "empty.wav": b"",
        "empty.g722": b"",
        "text.wav": b"this is a text, not a recording\n" * 50,
        "short.flac": flac[: len(flac) // 2],
        "short.wav": wav[: len(wav) // 2],
        "short.mp3": mp3[: len(mp3) // 2],
        "rate.wav": wav[:24] + struct.pack("<I", 44_100) + wav[28:],
        "slow.wav": wav[:24] + struct.pack("<II", 10, 20) + wav[32:],
        "bare.wav": wav[:40] + struct.pack("<I", 0),
    }
    for name, content in damaged.items():
        (root / name).write_bytes(content)
    assert {name: refused(name, root) for name in damaged} == {
        "empty.wav": "empty file",
        "empty.g722": "empty file",
        "text.wav": "unreadable",
        "short.flac": "unreadable",
        "short.wav": "unreadable",
        "short.mp3": "unreadable",
        "rate.wav": "wrong sample rate in the header",
        "slow.wav": "wrong sample rate in the header",
        "bare.wav": "empty file",
    }
    soundfile.write(root / "nan.wav", np.array([0.1, np.nan], np.float32), RATE, subtype="FLOAT")
    soundfile.write(root / "three.wav", np.zeros((10, 3)), RATE)
    assert refused("nan.wav", root) == refused("three.wav", root) == "unreadable"


def test_flac_cut_anywhere_is_never_silently_short(root):
    flac = (root / "a.flac").read_bytes()
    for cut in range(60, len(flac), 1_999):
        (root / "cut.flac").write_bytes(flac[:cut])
        assert refused("cut.flac", root) == "unreadable"


def test_wav_from_a_pipe_has_no_length_and_is_read_to_its_end(root):
    wav = (root / "a.wav").read_bytes()
    (root / "pipe.wav").write_bytes(wav[:4] + b"\xff" * 4 + wav[8:40] + b"\xff" * 4 + wav[44:])
    assert np.array_equal(read_recording("pipe.wav", root, 0.0, None, RATE), SAMPLES)


def test_missing_fsspec_names_its_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[remote\]"):
        read_recording("s3://bucket/a.wav", root, 0.0, None, RATE)
