from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.files import json_lines, make_key, split_lines, text_lines, tsv_rows
from bcaudio.evaluation.corpora.plain_list import PlainList
from bcaudio.inference.item import ItemError

Make = Callable[..., np.ndarray]
Write = Callable[[str, str], Path]


def test_keys_are_valid_and_never_shared() -> None:
    assert make_key("BAC009S0764W0121") == "BAC009S0764W0121"
    names = ["a.b", "a/b", "a b", "a-b", "é" * 100, "é" * 101, "x" * 80, "x" * 81, "x" * 82, ""]
    keys = [make_key(name) for name in names]
    assert len(set(keys)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,80}", key) for key in keys)
    assert make_key("a.b") == make_key("a.b")


def test_lines_that_cannot_be_read_are_named(write: Write, tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes("a one\nb caf\xe9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt:2: is not UTF-8"):
        list(text_lines(tmp_path / "latin.txt"))
    with pytest.raises(ValueError, match=r"s\.txt:2: has 3 columns, expected 2"):
        list(split_lines(write("s.txt", "a\tb\n1\t2\t3\n"), 2))
    with pytest.raises(ValueError, match=r"t\.tsv:3: has 1 columns, the header 2"):
        list(tsv_rows(write("t.tsv", "id\ttext\na\tb\nc\n"), ("id",)))
    with pytest.raises(ValueError, match=r"t\.tsv:1: has no column 'text'"):
        list(tsv_rows(write("t.tsv", "id\tsentence\na\tb\n"), ("id", "text")))
    with pytest.raises(ValueError, match=r"j\.jsonl:3: is not JSON"):
        list(json_lines(write("j.jsonl", '{"a": 1}\n\n{"a": \n')))
    with pytest.raises(ValueError, match=r"j\.jsonl:1: is a list"):
        list(json_lines(write("j.jsonl", "[1]\n")))


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(write: Write) -> None:
    assert list(split_lines(write("a.txt", "\ufeffa one two\r\nb\r\n"), 2, None)) == [
        (str(write("a.txt", "\ufeffa one two\r\nb\r\n")) + ":1", ["a", "one two"]),
        (str(write("a.txt", "\ufeffa one two\r\nb\r\n")) + ":2", ["b", ""]),
    ]


def test_bad_items_are_kept_with_their_problem_and_bad_lists_refused(write: Write, make_audio: Make, tmp_path: Path) -> None:
    make_audio("a.wav")
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    lines = [
        "good\ta.wav\tone\ten",
        "gone\tnone.wav\ttwo\ten",
        "empty\ta.wav\t\ten",
        "dots\ta.wav\t... !\ten",
        "bad\tbroken.wav\tx\ten",
    ]
    path = write("list.tsv", "\n".join(["id\taudio\ttext\tlanguage", *lines]))
    items = PlainList(path).items("asr")
    missing = f"missing audio: {tmp_path / 'none.wav'}"
    assert [item.problem for item in items] == ["", missing, "empty reference", "empty reference", ""]
    with pytest.raises(ItemError, match=r"^gone: its audio cannot be read: .*none\.wav"):
        items[1].waveform(16_000)
    with pytest.raises(ItemError, match=r"^bad: .*broken\.wav"):
        items[4].waveform(16_000)
    path = write("list.tsv", "\n".join(["id\taudio\ttext\tlanguage", *lines, lines[0], lines[2], *lines]))
    with pytest.raises(ValueError, match="ids come twice") as caught:
        PlainList(path).items("asr")
    assert str(caught.value) == (
        f"asr: plain list: ids come twice: 'good' ({path}:2 and {path}:7), 'empty' ({path}:4 and {path}:8), "
        f"'good' ({path}:7 and {path}:9) and 4 more; restore the files"
    )
    with pytest.raises(ValueError, match="has no item"):
        PlainList(write("list.tsv", "id\ttext\n"), language="en").items("asr")


def test_a_hundred_thousand_items_are_listed_in_seconds(write: Write, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for number in range(20):
        (tmp_path / f"clips/{number}.wav").touch()
    rows = "".join(f"u{i}\tclips/{i % 20}.wav\tsome words to be heard {i}\ten\n" for i in range(100_000))
    path = write("list.tsv", "id\taudio\ttext\tlanguage\n" + rows)
    start = time.process_time()
    items = PlainList(path).items("asr")
    assert time.process_time() - start < 15
    assert (len(items), items[-1].id, items[-1].problem) == (100_000, "u99999", "")
    assert os.path.samefile(items[-1].audio.path, tmp_path / "clips/19.wav")
