from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcaudio.data import json_list
from bcaudio.data.json_list import json_items


def test_items_of_a_list_are_read_across_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"id": i, "text": '] } \\ " 你好 ' * (i % 5), "list": [i, {"audios": []}]} for i in range(50)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"dataset": "x", "audios": items, "end": [1]}, ensure_ascii=False), encoding="utf-8")
    for chunk in (32, 100, 101, 1 << 20):
        monkeypatch.setattr(json_list, "_CHUNK", chunk)
        assert list(json_items(path, "audios")) == items


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"audio": []}', "no list 'audios'"),
        (b'{"audios": [{"a": 1}, {"b"', "ends early"),
        (b'{"audios": [{"a": "\xff"}]}', "is not UTF-8"),
    ],
)
def test_broken_lists_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json: .*{message}"):
        list(json_items(tmp_path / "a.json", "audios"))
