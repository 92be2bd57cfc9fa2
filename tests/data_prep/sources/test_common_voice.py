from __future__ import annotations

import pytest

from data_prep.sources.common_voice import CommonVoice

HEADER = "client_id\tpath\tsentence_id\tsentence\tup_votes\tlocale\n"


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    make_audio("zh-CN/clips/common_voice_zh-CN_1.mp3")
    make_audio("zh-CN/clips/common_voice_zh-CN_2.mp3")
    row = "{}\tcommon_voice_zh-CN_{}.mp3\ts\t{}\t2\tzh-CN\n"
    train = row.format("ab" * 64, 1, '他说"好') + row.format("cd" * 64, 7, "没有") + "short\trow\n" + row.format("e", 1, " ")
    write("zh-CN/train.tsv", HEADER + train)
    write("zh-CN/test.tsv", HEADER + row.format("f", 2, "再见"))
    utterances, dropped = listed(CommonVoice(tmp_path, "zh-CN", ["train", "test"]))
    assert told(utterances, "key", "text", "speaker", "split", "language", "licence") == [
        ("common_voice-train-common_voice_zh-CN_1", '他说"好', "ab" * 8, "train", "zh", "CC0 1.0"),
        ("common_voice-test-common_voice_zh-CN_2", "再见", "f", "test", "zh", "CC0 1.0"),
    ]
    assert dropped == {"missing audio file": 1, "wrong column count": 1, "no text": 1}
    assert len(waveform(utterances[0])) == pytest.approx(8_000, abs=1_200)  # mp3 pads


def test_table_without_its_column_is_named(tmp_path, write):
    write("en/train.tsv", "client_id\tpath\ttext\n")
    with pytest.raises(ValueError, match=r"train\.tsv: the header has no column 'sentence' \(it has client_id, path, text\)"):
        list(CommonVoice(tmp_path, "en", ["train"]).utterances({}))


def test_tables_that_overlap_and_wrong_locales_are_refused(tmp_path):
    with pytest.raises(ValueError, match="name it alone"):
        CommonVoice(tmp_path, "en", ["validated", "test"])
    with pytest.raises(ValueError, match="language is 'English'"):
        CommonVoice(tmp_path, "English")
