from __future__ import annotations

import json

import pytest

from data_prep.sources import tables
from data_prep.sources.corpus import make_key
from data_prep.sources.tables import json_items


def test_items_of_a_list_are_read_across_any_chunk(tmp_path, monkeypatch):
    items = [{"id": i, "text": '] } \\ " 你好 ' * (i % 5), "list": [i, {"audios": []}]} for i in range(50)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"dataset": "x", "audios": items, "end": [1]}, ensure_ascii=False), encoding="utf-8")
    for chunk in (32, 100, 101, 1 << 20):
        monkeypatch.setattr(tables, "_CHUNK", chunk)
        assert list(json_items(path, "audios")) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"audio": []}', "no list 'audios'"),
        (b'{"audios": [{"a": 1}, {"b"', "ends early"),
        (b'{"audios": [{"a": "\xff"}]}', "is not UTF-8"),
    ],
)
def test_broken_lists_are_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        list(json_items(tmp_path / "a.json", "audios"))


@pytest.mark.parametrize("name", ["a.b/c", "ü", "x" * 200, "", "a b"])
def test_keys_hold_plain_letters_and_stay_short(name):
    key = make_key("corpus", "train", name)
    assert len(key) <= 80
    assert key.isascii()
    assert not set(key) & set("./\\ ")
    assert key == make_key("corpus", "train", name)


def test_keys_of_names_that_differ_late_or_in_odd_letters_differ():
    names = ["x" * 200, "x" * 199 + "y", "a.b", "a/b", "a-b"]
    assert len({make_key("c", "train", name) for name in names}) == 5
    assert make_key("c", "train", "84-121_A") == "c-train-84-121_A"
