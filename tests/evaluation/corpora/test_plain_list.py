from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.plain_list import PlainList

Write = Callable[[str, str], Path]


def test_a_table_and_json_lines_say_the_same(tmp_path: Path, write: Write, make_audio: Callable[..., np.ndarray]) -> None:
    expected = make_audio("a.wav")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.wav", "in/a.wav")
    rows = [
        {"id": "x/1", "audio": "a.wav", "text": "one", "language": "en", "duration_s": "0.5", "topic": "numbers"},
        {"id": "x/2", "audio": "t.tar#in/a.wav", "text": "un", "language": "fr", "translation": "one", "target_language": "en"},
        {"id": "x/3", "text": "to be said", "language": "en", "prompt_audio": "a.wav", "prompt_text": "so"},
    ]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = "\n".join(["\t".join(columns), *("\t".join(row.get(name, "") for name in columns) for row in rows)])
    of_table = PlainList(write("a.tsv", table)).items("asr")
    items = PlainList(write("a.jsonl", "\n".join(map(json.dumps, rows)))).items("asr")
    assert of_table == items
    assert [item.fields for item in items] == [
        {"source_id": "x/1", "topic": "numbers"},
        {"source_id": "x/2"},
        {"source_id": "x/3", "prompt_audio": tmp_path / "a.wav", "prompt_text": "so"},
    ]
    assert (items[0].sample.duration_s, items[0].sample.spans[0].end_s) == (0.5, 0.5)
    assert (items[1].sample.translation, items[1].sample.target_language, items[1].sample.language) == ("one", "en", "fr")
    for item in items[:2]:
        np.testing.assert_array_equal(item.waveform(16_000), expected)
    assert items[2].audio is None
    assert not any(item.problem for item in items)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "language": "en"}, "has no id"),
        ({"id": "a", "text": "a"}, "language is None"),
        ({"id": "a", "text": "a", "language": "English"}, "language is 'English'"),
        ({"id": "a", "text": "a", "language": "en", "target_language": "??"}, r"language is '\?\?'"),
        ({"id": 3, "text": "a", "language": "en"}, "id is 3; it must be a string"),
        ({"id": "a", "text": "a", "language": "en", "duration_s": "long"}, "duration_s is no number"),
    ],
)
def test_rows_that_cannot_be_read_are_named(write: Write, row: dict[str, object], message: str) -> None:
    path = write("a.jsonl", json.dumps({"id": "good", "text": "a", "language": "en"}) + "\n" + json.dumps(row))
    with pytest.raises(ValueError, match=rf"a\.jsonl:2: {message}"):
        PlainList(path).items("asr")


def test_a_language_may_be_given_for_all_and_other_files_are_refused(write: Write, tmp_path: Path) -> None:
    (item,) = PlainList(write("a.tsv", "id\ttext\n1\t一\n"), language="zh", role="narrator").items("tts")
    assert (item.sample.language, item.sample.spans[0].role) == ("zh", "narrator")
    with pytest.raises(ValueError, match=r"a\.csv: is neither \.tsv nor \.jsonl"):
        PlainList(write("a.csv", "id,text")).items("tts")
    with pytest.raises(FileNotFoundError, match=r"none\.tsv: no such list; it must be a \.tsv with the header id"):
        PlainList(tmp_path / "none.tsv").items("tts")
