from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.covost import CoVoST

Write = Callable[[str, str], Path]
HEADER = "path\tsentence\ttranslation\tclient_id\n"


def test_sentences_translations_and_mp3_clips_belong_together(
    tmp_path: Path, write: Write, make_audio: Callable[..., np.ndarray]
) -> None:
    write(
        "en/covost_v2.en_zh-CN.test.tsv",
        HEADER
        + 'common_voice_en_1.mp3\t\\"Go\\", he said.\t“走”，他说。\tabc\n'
        + 'common_voice_en_2.mp3\tIt\'s "so"\t是这样\tabc\n'
        + "common_voice_en_3.mp3\tNo translation.\t\tabd\n",
    )
    tone = make_audio("en/clips/common_voice_en_1.mp3", duration_s=1.0)
    make_audio("en/clips/common_voice_en_3.mp3")
    items = CoVoST(tmp_path, "en", "zh-CN").items("s2tt")
    assert [(i.id, i.sample.text, i.sample.translation, i.problem.partition(":")[0]) for i in items] == [
        ("common_voice_en_1", '"Go", he said.', "“走”，他说。", ""),
        ("common_voice_en_2", 'It\'s "so"', "是这样", "missing audio"),
        ("common_voice_en_3", "No translation.", "", "empty translation"),
    ]
    assert {(i.sample.language, i.sample.target_language) for i in items} == {("en", "zh")}
    heard = items[0].waveform(16_000)
    assert abs(len(heard) - 16_000) < 2500  # an mp3 is padded
    assert abs(np.abs(heard).max() - np.abs(tone).max()) < 0.05


def test_what_is_absent_is_named(tmp_path: Path, write: Write) -> None:
    with pytest.raises(FileNotFoundError, match=r"covost_v2\.zh-CN_en\.test\.tsv: not there; .*facebookresearch/covost"):
        CoVoST(tmp_path, "zh-CN", "en").items("s2tt")
    write("zh-CN/covost_v2.zh-CN_en.test.tsv", "path\tsentence\n")
    with pytest.raises(ValueError, match="has no column 'translation'"):
        CoVoST(tmp_path, "zh-CN", "en").items("s2tt")
