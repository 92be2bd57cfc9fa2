from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.aishell import Aishell


def test_lines_of_the_test_speakers_are_taken_and_one_not_unpacked_is_missed(
    tmp_path: Path, make_audio: Callable[..., np.ndarray], write: Callable[[str, str], Path]
) -> None:
    write(
        "transcript/aishell_transcript_v0.8.txt",
        "BAC009S0002W0122 而 对 楼市\nBAC009S0724W0121 广州市 房地产\nBAC009S0764W0121 甚至 出现\nBAC009S0916W0495 一 二\n",
    )
    expected = make_audio("wav/test/S0764/BAC009S0764W0121.wav")
    items = Aishell(tmp_path).items("asr")
    assert [(item.id, item.sample.text, item.sample.language, item.sample.speaker) for item in items] == [
        ("BAC009S0764W0121", "甚至出现", "zh", "S0764"),
        ("BAC009S0916W0495", "一二", "zh", "S0916"),
    ]
    assert [item.problem for item in items] == ["", f"missing audio: {tmp_path / 'wav/test/S0916/BAC009S0916W0495.wav'}"]
    np.testing.assert_array_equal(items[0].waveform(16_000), expected)
    with pytest.raises(FileNotFoundError, match=r"wav/dev: not there.*openslr\.org/33.*unpacked"):
        Aishell(tmp_path, "dev").items("asr")
    make_audio("wav/dev/S0724/BAC009S0724W0121.wav")
    assert [(item.id, item.sample.split) for item in Aishell(tmp_path, "dev").items("asr")] == [("BAC009S0724W0121", "dev")]


def test_a_line_without_a_speaker_is_named(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    (tmp_path / "wav/test").mkdir(parents=True)
    write("transcript/aishell_transcript_v0.8.txt", "BAC009S0002W0122 而\nhello 一\n")
    with pytest.raises(ValueError, match=r"aishell_transcript_v0\.8\.txt:2: 'hello' holds no speaker"):
        Aishell(tmp_path).items("asr")
