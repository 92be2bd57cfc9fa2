from __future__ import annotations

import gzip

import pytest

from data_prep.sources.text_corpus import TextCorpus


def test_lines_become_utterances_without_audio(tmp_path, write, listed, told):
    write("a.txt", "first  line\n\nthird line\r\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.txt.gz").write_bytes(gzip.compress("你好\n".encode() + b"\xff\xfe\n"))
    utterances, dropped = listed(TextCorpus(tmp_path, "en", "**/*.txt*", role="user"))
    assert told(utterances, "text", "audio", "speaker") == [
        ("first line", None, ""),
        ("third line", None, ""),
        ("你好", None, ""),
    ]
    assert [u.key for u in utterances[:2]] == ["text-train-a-00000001", "text-train-a-00000003"]
    assert utterances[0].parts[0].role == "user"
    assert dropped == {"wrong text encoding": 1}


def test_utf16_is_counted_as_wrong_encoding(tmp_path, listed):
    (tmp_path / "a.txt").write_bytes("one\ntwo\n".encode("utf-16"))
    utterances, dropped = listed(TextCorpus(tmp_path, "en"))
    assert utterances == []
    assert dropped == {"wrong text encoding": 3}  # the third line is half a newline


def test_jsonl_of_one_file(tmp_path, write, listed):
    path = write("a.jsonl", '{"body": "hello", "id": 3}\n{"id": 4}\nno json\n')
    utterances, dropped = listed(TextCorpus(path, "en", text="body", split="test"))
    assert [(u.key, u.text) for u in utterances] == [("text-test-a-00000001", "hello")]
    assert dropped == {"no text": 1, "not a JSON object": 1}


def test_cut_gzip_is_refused(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"line\n" * 1000)[:-10])
    with pytest.raises(ValueError, match=r"a\.txt\.gz: cannot be unpacked"):
        list(TextCorpus(tmp_path, "en", "*.gz").utterances({}))
