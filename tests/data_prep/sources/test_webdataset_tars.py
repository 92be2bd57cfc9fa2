from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest

from data_prep.sources.webdataset_tars import WebDatasetTars


def write_tar(path, members: list[tuple[str, bytes | str]]) -> None:
    """Members as (name, content); a content that is a str is the target of a symlink."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def flac(tmp_path, make_audio):
    """(samples, encoded)"""
    return make_audio("in.flac"), (tmp_path / "in.flac").read_bytes()


def test_samples_of_tars(tmp_path, flac, listed, told, waveform):
    described = json.dumps(
        {"text": "hello", "speaker": "s1", "language": "fr", "translation": "你好", "target_language": "zh", "n": 1}
    )
    write_tar(
        tmp_path / "tars/000.tar",
        [
            ("x/a.flac", flac[1]),
            ("x/a.txt", b"good night\n"),
            ("x/b.json", described.encode()),
            ("x/b.flac", flac[1]),
            ("c.txt", b"no sound"),
            ("d.flac", flac[1]),
            ("e.flac", flac[1]),
            ("e.txt", "ü".encode("latin-1")),
            ("f.flac", flac[1]),
            ("f.json", b"{"),
            ("g.flac", flac[1]),
            ("g.json", b'{"text": 1}'),
        ],
    )
    utterances, dropped = listed(WebDatasetTars(tmp_path / "tars", "en"))
    assert told(utterances, "text", "speaker", "language", "translation") == [
        ("good night", "", "en", None),
        ("hello", "s1", "fr", "你好"),
    ]
    assert utterances[0].audio == f"{tmp_path}/tars/000.tar#x/a.flac"
    assert dropped == {
        "missing audio file": 1,
        "no text": 1,
        "wrong text encoding": 1,
        "not a JSON object": 1,
        "wrong type of a value": 1,
    }
    assert np.array_equal(waveform(utterances[1]), flac[0])


def test_links_and_names_that_lead_out_are_dropped(tmp_path, flac, listed):
    members = [
        ("../a.flac", flac[1]),
        ("/b.flac", flac[1]),
        ("c.flac", "/etc/passwd"),
        ("c.txt", b"x"),
        ("ok.flac", flac[1]),
        ("ok.txt", b"fine"),
    ]
    write_tar(tmp_path / "tars/000.tar", members)
    utterances, dropped = listed(WebDatasetTars(tmp_path / "tars", "en"))
    assert [u.text for u in utterances] == ["fine"]
    assert dropped == {"unsafe path": 3, "missing audio file": 1}


def test_broken_tars_are_counted_and_the_others_read(tmp_path, flac, listed):
    members = [(f"{key}.{kind}", flac[1] if kind == "flac" else key.encode()) for key in "abc" for kind in ("txt", "flac")]
    write_tar(tmp_path / "tars/0.tar", members)
    whole = bytearray((tmp_path / "tars/0.tar").read_bytes())
    with tarfile.open(tmp_path / "tars/0.tar") as tar:
        offset = tar.getmember("b.txt").offset
    corrupt = bytearray(whole)
    corrupt[offset + 148 : offset + 156] = b"garbage!"  # the checksum of a header in the middle
    (tmp_path / "tars/1.tar").write_bytes(corrupt)
    (tmp_path / "tars/2.tar").write_bytes(whole[: offset - 600])
    (tmp_path / "tars/3.tar").write_bytes(b"no tar at all" * 100)
    utterances, dropped = listed(WebDatasetTars(tmp_path / "tars", "en"))
    assert [u.text for u in utterances] == ["a", "b", "c", "a", "a"]
    assert dropped == {"corrupt tar header": 1, "truncated tar": 2}


def test_folder_without_tars_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\*\.tar: no such file; it must lie as ROOT/000000\.tar"):
        next(WebDatasetTars(tmp_path, "en").utterances({}))
