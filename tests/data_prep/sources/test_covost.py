from __future__ import annotations

import pytest

from data_prep.sources.covost import CoVoST


def test_utterances_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    make_audio("en/clips/common_voice_en_1.mp3")
    rows = "path\tsentence\ttranslation\tclient_id\ncommon_voice_en_1.mp3\tGood night.\t晚安。\tabc\n"
    write("en/covost_v2.en_zh-CN.dev.tsv", rows + "common_voice_en_1.mp3\tBye.\t \tabc\ncommon_voice_en_2.mp3\tBye.\t再见\tabc\n")
    utterances, dropped = listed(CoVoST(tmp_path, "en", "zh-CN", ["dev"]))
    assert told(utterances, "key", "text", "translation", "language", "target_language", "speaker", "split") == [
        ("covost-dev-zh-common_voice_en_1", "Good night.", "晚安。", "en", "zh", "abc", "dev"),
    ]
    assert dropped == {"no translation": 1, "missing audio file": 1}
    assert len(waveform(utterances[0])) > 7_000


def test_tables_of_the_official_script_are_asked_for(tmp_path, write):
    write("en/covost_v2.en_de.tsv", "path\ttranslation\tsplit\n")  # as published, without transcripts
    with pytest.raises(FileNotFoundError, match=r"covost_v2\.en_de\.train\.tsv: not there; .*get_covost_splits\.py writes"):
        next(CoVoST(tmp_path, "en", "de").utterances({}))
