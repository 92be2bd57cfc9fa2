from __future__ import annotations

import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora import recording
from bcaudio.evaluation.corpora.recording import Recording

Make = Callable[..., np.ndarray]


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tgz"])
def test_a_member_of_a_tar_is_read_without_a_path_of_its_own(tmp_path: Path, make_audio: Make, name: str) -> None:
    expected = make_audio("a.flac")
    (tmp_path / "secret.flac").write_bytes((tmp_path / "a.flac").read_bytes())
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
        tar.add(tmp_path / "a.flac", "test/a.flac")
        tar.add(tmp_path / "a.flac", "../out.flac")
        link = tarfile.TarInfo("test/link.flac")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.flac")
        tar.addfile(link)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    np.testing.assert_array_equal(Recording(tmp_path / name, "test/a.flac")(16_000), expected)
    np.testing.assert_array_equal(Recording(tmp_path / name, "../out.flac")(16_000), expected)  # bytes, written nowhere
    for missing in ("test/link.flac", "test/b.flac", str(tmp_path / "secret.flac"), "../secret.flac"):
        with pytest.raises(FileNotFoundError, match="holds no"):
            Recording(tmp_path / name, missing)(16_000)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "out.flac").exists()


def test_a_tar_is_unpacked_once_and_read_anew_when_it_changes(tmp_path: Path, make_audio: Make) -> None:
    tar_gz = tmp_path / "t.tar.gz"
    for seed in (0, 1):
        expected = make_audio("a.wav", seed=seed, duration_s=0.5 + seed)
        with tarfile.open(tar_gz, "w:gz") as tar:
            tar.add(tmp_path / "a.wav", "a.wav")
        recording._archive.cache_clear() if seed == 0 else None
        for _ in range(3):
            np.testing.assert_array_equal(Recording(tar_gz, "a.wav")(16_000), expected)
    assert recording._archive.cache_info().misses == 2


def test_a_broken_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.tar.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"t\.tar\.gz: cannot be read as a tar"):
        Recording(tmp_path / "t.tar.gz", "a.wav")(16_000)
    with pytest.raises(FileNotFoundError, match=r"none\.tar: no such tar"):
        Recording(tmp_path / "none.tar", "a.wav")(16_000)


def test_a_stretch_is_cut_out_and_resampled(tmp_path: Path, make_audio: Make) -> None:
    samples = make_audio("a.flac", duration_s=2.0)
    np.testing.assert_array_equal(Recording(tmp_path / "a.flac", None, 0.5, 1.25)(16_000), samples[8000:20_000])
    assert len(Recording(tmp_path / "a.flac", None, 0.5, 1.25)(24_000)) == 18_000
    assert len(Recording(tmp_path / "a.flac", None, 1.5, 2.05)(16_000)) == 8000  # a rounded end
    for start_s, end_s in ((1.5, 2.5), (2.0, 2.05), (3.0, 4.0), (1.0, 0.5)):
        with pytest.raises(ValueError, match="has no stretch"):
            Recording(tmp_path / "a.flac", None, start_s, end_s)(16_000)
    (tmp_path / "b.flac").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"b\.flac: cannot be decoded"):
        Recording(tmp_path / "b.flac", None, 0.0, 1.0)(16_000)


def test_another_sampling_rate_is_resampled_on_reading(tmp_path: Path, make_audio: Make) -> None:
    make_audio("a.wav", duration_s=0.5, sample_rate=44_100)
    assert len(Recording(tmp_path / "a.wav")(16_000)) == 8000


def test_a_recording_crosses_processes(tmp_path: Path, make_audio: Make) -> None:
    expected = make_audio("a.wav")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(Recording.at(tmp_path, "a.wav")))(16_000), expected)
