from __future__ import annotations

import importlib.util
from collections import Counter

import numpy as np
import pytest

from data_prep.sources.hf_parquet import HFParquet
from data_prep.steps.read import read_recording
from data_prep.utterance import Rejected


@pytest.fixture
def corpus(tmp_path, make_audio):
    """Five rows in row groups of two; returns their samples."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sounds = [make_audio(f"in/{i}.flac", seed=i) for i in range(5)]
    audio = [{"bytes": (tmp_path / f"in/{i}.flac").read_bytes(), "path": f"{i}.flac"} for i in range(5)]
    audio[3] = {"bytes": None, "path": "3.flac"}
    texts = ["zero", "one", None, "three", "four"]
    table = pyarrow.table(
        {"audio": audio, "sentence": texts, "who": [10, 11, 12, 13, None], "zh": ["零", None, "二", "三", "四"]}
    )
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data/train-00000-of-00001.parquet", row_group_size=2)
    return sounds


def test_rows_become_utterances(tmp_path, corpus, listed, told, waveform):
    source = HFParquet(
        tmp_path,
        "en",
        "data/train-*.parquet",
        text="sentence",
        speaker="who",
        translation="zh",
        target_language="zh",
        licence="CC0",
    )
    utterances, dropped = listed(source)
    assert told(utterances, "text", "speaker", "translation", "target_language", "split", "licence") == [
        ("zero", "10", "零", "zh", "train", "CC0"),
        ("one", "11", None, None, "train", "CC0"),
        ("three", "13", "三", "zh", "train", "CC0"),
        ("four", "", "四", "zh", "train", "CC0"),
    ]
    assert utterances[3].audio == f"{tmp_path}/data/train-00000-of-00001.parquet#4"
    assert dropped == {"no text": 1}
    for row, utterance in ((0, utterances[0]), (1, utterances[1]), (4, utterances[3])):
        assert np.array_equal(waveform(utterance), corpus[row])
    with pytest.raises(Rejected, match="not found: row 3 holds no bytes"):
        waveform(utterances[2])
    with pytest.raises(Rejected, match="not found: row 5 of 5"):
        read_recording("data/train-00000-of-00001.parquet#5", tmp_path, 0.0, None, 16_000)


def test_missing_column_and_broken_file_are_named(tmp_path, corpus):
    with pytest.raises(ValueError, match=r"no column 'text'; it has audio, sentence, who, zh"):
        list(HFParquet(tmp_path, "en").utterances(Counter()))
    path = tmp_path / "data/train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        list(HFParquet(tmp_path, "en", text="sentence").utterances(Counter()))
    with pytest.raises(Rejected, match="unreadable: parquet"):
        read_recording(f"{path}#0", tmp_path, 0.0, None, 16_000)


def test_missing_pyarrow_names_its_install(tmp_path, write, monkeypatch):
    path = write("a.parquet", "x")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[parquet\]"):
        list(HFParquet(tmp_path, "en").utterances(Counter()))
    with pytest.raises(ValueError, match=r"pip install bcaudio\[parquet\]"):
        read_recording(f"{path}#0", tmp_path, 0.0, None, 16_000)
