from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bcaudio.evaluation.corpora.wenetspeech import WenetSpeech


def _segment(sid: str, begin: float, end: float, text: str, subset: str) -> dict[str, object]:
    return {"sid": sid, "begin_time": begin, "end_time": end, "text": text, "subsets": [subset], "confidence": 1.0}


def test_segments_of_a_subset_are_cut_from_long_recordings(
    tmp_path: Path, make_audio: Callable[..., np.ndarray], write: Callable[[str, str], Path]
) -> None:
    long = "audio/test_net/youtube/B00000/Y0000000000_--5llN02F84"
    audios = [
        {"aid": "T", "path": "audio/train/a.opus", "segments": [_segment("T_S0", 0, 1, "训练", "L")]},
        {
            "aid": "Y",
            "path": f"{long}.flac",
            "segments": [
                _segment("TEST_NET_Y_S0", 0.25, 1.0, "你好", "TEST_NET"),
                _segment("TEST_NET_Y_S1", 1.5, 2.0, "", "TEST_NET"),
                _segment("TEST_NET_Y_S2", 1.5, 9.0, "太长", "TEST_NET"),
            ],
        },
        {"aid": "M", "path": f"{long}.opus", "segments": [_segment("TEST_MEETING_M_S0", 0.5, 1.5, "开会", "TEST_MEETING")]},
        {"aid": "N", "path": "audio/none.opus", "segments": [_segment("TEST_NET_N_S0", 0, 1, "没有", "TEST_NET")]},
    ]
    write("WenetSpeech.json", json.dumps({"dataset": "WenetSpeech", "audios": audios}, ensure_ascii=False))
    samples = make_audio(f"{long}.flac", duration_s=2.0)
    tone = make_audio(f"{long}.opus", duration_s=2.0)
    items = WenetSpeech(tmp_path).items("asr")
    assert [(item.id, item.sample.text, item.sample.duration_s, item.problem) for item in items] == [
        ("TEST_NET_Y_S0", "你好", 0.75, ""),
        ("TEST_NET_Y_S1", "", 0.5, "empty reference"),
        ("TEST_NET_Y_S2", "太长", 7.5, ""),
        ("TEST_NET_N_S0", "没有", 1.0, f"missing audio: {tmp_path / 'audio/none.opus'}"),
    ]
    np.testing.assert_array_equal(items[0].waveform(16_000), samples[4000:16_000])
    with pytest.raises(Exception, match=r"TEST_NET_Y_S2: .*has no stretch 1\.5-9\.0 s"):
        items[2].waveform(16_000)
    (meeting,) = WenetSpeech(tmp_path, "TEST_MEETING").items("asr")
    heard = meeting.waveform(16_000)
    assert (meeting.id, len(heard)) == ("TEST_MEETING_M_S0", 16_000)
    assert np.abs(heard - tone[8000:24_000]).max() < 0.03  # the stretch that was asked for, after a lossy codec


def test_what_is_absent_or_broken_is_named(tmp_path: Path, write: Callable[[str, str], Path]) -> None:
    with pytest.raises(FileNotFoundError, match=r"WenetSpeech\.json: not there; .*wenet\.org\.cn/WenetSpeech"):
        WenetSpeech(tmp_path).items("asr")
    for segment, message in (
        (_segment("a", 2, 1, "x", "TEST_NET"), "a lies at 2.0-1.0 s"),
        ({"sid": "a"}, "subsets"),
    ):
        write("WenetSpeech.json", json.dumps({"audios": [{"path": "a", "segments": []}, {"path": "a", "segments": [segment]}]}))
        with pytest.raises(ValueError, match=rf"WenetSpeech\.json: recording 1 cannot be read \(.*{message}"):
            WenetSpeech(tmp_path).items("asr")
