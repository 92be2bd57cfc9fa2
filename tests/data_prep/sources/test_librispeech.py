from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources.librispeech import LibriSpeech


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    first = make_audio("train-clean-100/103/1240/103-1240-0000.flac")
    make_audio("train-clean-100/103/1240/103-1240-0001.flac")
    make_audio("dev-clean/84/121123/84-121123-0000.flac")
    write(
        "train-clean-100/103/1240/103-1240.trans.txt",
        "103-1240-0000 CHAPTER ONE\n103-1240-0001 MISSUS RACHEL  LYNDE\n103-1240-0002 LOST\n103-1240-0003\n",
    )
    write("dev-clean/84/121123/84-121123.trans.txt", "84-121123-0000 GO DO YOU HEAR\n")
    utterances, dropped = listed(LibriSpeech(tmp_path, ["train-clean-100", "dev-clean"]))
    assert told(utterances, "key", "text", "speaker", "split", "language", "licence", "start_s", "end_s") == [
        ("librispeech-train-103-1240-0000", "CHAPTER ONE", "103", "train", "en", "CC BY 4.0", 0.0, None),
        ("librispeech-train-103-1240-0001", "MISSUS RACHEL LYNDE", "103", "train", "en", "CC BY 4.0", 0.0, None),
        ("librispeech-dev-84-121123-0000", "GO DO YOU HEAR", "84", "dev", "en", "CC BY 4.0", 0.0, None),
    ]
    assert dropped == {"missing audio file": 1, "wrong column count": 1}
    assert np.array_equal(waveform(utterances[0]), first)


def test_missing_corpus_says_where_it_is_published_and_how_it_must_lie(tmp_path):
    source = LibriSpeech(tmp_path, ["test-other"])
    with pytest.raises(
        FileNotFoundError, match=r"test-other: not there; .*openslr\.org/12; it must lie as ROOT/train-clean-100/103"
    ):
        next(source.utterances({}))


@pytest.mark.parametrize(
    ("subsets", "message"), [(["dev-clear"], "did you mean 'dev-clean'"), ([], "at least one"), (["dev-clean"] * 2, "once")]
)
def test_wrong_subsets_are_named(tmp_path, subsets, message):
    with pytest.raises(ValueError, match=message):
        LibriSpeech(tmp_path, subsets)
