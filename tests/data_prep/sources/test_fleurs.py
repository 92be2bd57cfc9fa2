from __future__ import annotations

import numpy as np
import pytest

from data_prep.sources.fleurs import Fleurs


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    first = make_audio("cmn_hans_cn/audio/train/100.wav")
    make_audio("cmn_hans_cn/audio/train/101.wav")
    row = "{}\t{}.wav\t{}\t{}\t字 母 |\t8000\tFEMALE\n"
    rows = row.format(7, 100, "“你好”，他说。", "你好他说") + row.format(7, 101, "“你好”，他说。", "你好他说") + "8\t102.wav\tx\n"
    write("cmn_hans_cn/train.tsv", rows)
    utterances, dropped = listed(Fleurs(tmp_path, "cmn_hans_cn", ["train"]))
    assert told(utterances, "key", "text", "split", "language", "licence") == [
        ("fleurs-train-zh-7-100", "“你好”，他说。", "train", "zh", "CC BY 4.0"),
        ("fleurs-train-zh-7-101", "“你好”，他说。", "train", "zh", "CC BY 4.0"),
    ]
    assert dropped == {"wrong column count": 1}
    assert np.array_equal(waveform(utterances[0]), first)


@pytest.mark.parametrize(("locale", "language"), [("en_us", "en"), ("yue_hant_hk", "yue"), ("es_419", "es")])
def test_language_is_that_of_the_locale(tmp_path, locale, language):
    assert Fleurs(tmp_path, locale).language == language
