from __future__ import annotations

import json
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from data_prep.sources.manifest import Manifest


def lines(*items: object) -> str:
    return "".join((item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)) + "\n" for item in items)


def test_lines_become_utterances(tmp_path, make_audio, write, listed, told, waveform):
    samples = make_audio("clips/a.flac", duration_s=2.0)
    full = {"key": "a/1", "audio": "clips/a.flac", "text": "good night", "speaker": "s1", "start_s": 0.5, "end_s": 1.5}
    full |= {
        "translation": "晚安",
        "target_language": "zh",
        "source": "here",
        "licence": "CC0",
        "split": "test",
        "role": "narrator",
    }
    path = write(
        "m.jsonl",
        lines(
            full,
            {"audio": str(tmp_path / "clips/a.flac"), "text": "again", "language": "fr", "speaker": None},
            {"audio": "s3://bucket/b.wav", "text": "far"},
            {"text": "only text"},
            {"audio": "gone.wav", "text": "gone"},
            {"audio": "clips/a.flac"},
            {"audio": "clips/a.flac", "text": "x", "language": "Klingon"},
            {"audio": "clips/a.flac", "text": 7},
            {"audio": "clips/a.flac", "text": "x", "start_s": "0"},
            {"audio": "clips/a.flac", "text": "x", "start_s": 1, "end_s": 1},
            '{"text": "\\ud800"}',
            "{broken",
            "[1]",
        ),
    )
    with open(path, "ab") as file:
        file.write('{"text": "ü"}\n'.encode("latin-1"))
    utterances, dropped = listed(Manifest(path, "en", licence="own"))
    assert told(utterances, "text", "speaker", "language", "split", "start_s", "end_s", "translation", "licence") == [
        ("good night", "s1", "en", "test", 0.5, 1.5, "晚安", "CC0"),
        ("again", "", "fr", "train", 0.0, None, None, "own"),
        ("far", "", "en", "train", 0.0, None, None, "own"),
        ("only text", "", "en", "train", 0.0, None, None, "own"),
    ]
    assert [u.key for u in utterances[1:]] == [f"manifest-train-{number:08d}" for number in (2, 3, 4)]
    assert utterances[0].key.startswith("manifest-test-a-1-")
    assert [u.audio for u in utterances[2:]] == ["s3://bucket/b.wav", None]
    assert dropped == {
        "missing audio file": 1,
        "no text": 1,
        "no language code": 1,
        "wrong type of a value": 2,
        "no such stretch": 1,
        "wrong text encoding": 2,
        "not a JSON object": 2,
    }
    assert np.array_equal(waveform(utterances[0]), samples[8_000:24_000])


def test_unknown_key_is_refused_with_line_and_suggestion(tmp_path, write):
    path = write("m.jsonl", lines({"text": "a"}, {"text": "b", "speeker": "s"}))
    with pytest.raises(ValueError, match=r"m\.jsonl:2: key 'speeker' is unknown; did you mean 'speaker'\?"):
        list(Manifest(path, "en").utterances(Counter()))


def test_missing_manifest_says_what_a_line_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'm\.jsonl: not there; it must lie as a file of lines like \{"audio"'):
        list(Manifest(tmp_path / "m.jsonl", "en").utterances(Counter()))


def test_url_of_a_manifest_is_read_through_fsspec(tmp_path, write, told):
    path = write("m.jsonl", lines({"audio": "a.wav", "text": "hello"}))
    source = Manifest(f"file://{path}", "en")
    assert told(source.utterances(Counter()), "text", "audio") == [("hello", f"file://{tmp_path}/a.wav")]


def test_manifest_is_never_held_in_memory(tmp_path, write):
    path = write("m.jsonl", lines(*({"text": f"sentence {i} " + "x" * 500} for i in range(10_000))))
    tracemalloc.start()
    num = sum(1 for _ in Manifest(path, "en").utterances(Counter()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert num == 10_000
    assert peak < 500_000  # the file has 5 MB
