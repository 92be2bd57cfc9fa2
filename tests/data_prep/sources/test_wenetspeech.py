from __future__ import annotations

import json

import numpy as np
import pytest

from data_prep.sources.wenetspeech import WenetSpeech

AUDIO = "audio/train/youtube/B00000/Y0000000000_--5llN02F84.opus"


def segment(number: int, begin: float, end: float, text: str, subsets: list[str]) -> dict[str, object]:
    sid = f"Y0000000000_--5llN02F84_S{number:05d}"
    return {"sid": sid, "begin_time": begin, "end_time": end, "text": text, "confidence": 1.0, "subsets": subsets}


def entry(path: str, segments: list[dict[str, object]]) -> dict[str, object]:
    return {"aid": path[-22:-5], "duration": 4.0, "md5": "x", "path": path, "tags": ["drama"], "segments": segments}


def test_segments_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    make_audio(AUDIO, duration_s=4.0)
    first = [
        segment(0, 1.0, 2.25, "怎么样这些日子", ["L", "S"]),
        segment(1, 3.0, 3.5, "住得", ["W"]),
        segment(2, 3.0, 2.5, "好", ["L"]),
    ]
    first.append({"sid": "x", "subsets": ["L"]})
    other = [segment(9, 0.0, 1.0, "还", ["L"]), segment(8, 0.0, 1.0, "习惯", ["TEST_NET"])]
    audios = [entry(AUDIO, first), entry(AUDIO.replace("Y0000000000", "Y0000000001"), other)]
    write("WenetSpeech.json", json.dumps({"data": "2021", "audios": audios}, ensure_ascii=False, indent=1))
    utterances, dropped = listed(WenetSpeech(tmp_path, ["L", "TEST_NET"]))
    assert told(utterances, "key", "text", "speaker", "split", "start_s", "end_s") == [
        ("wenetspeech-train-Y0000000000_--5llN02F84_S00000", "怎么样这些日子", "", "train", 1.0, 2.25),
    ]
    assert dropped == {"no such stretch": 1, "bad entry": 1, "missing audio file": 2}
    sound = waveform(utterances[0])
    assert len(sound) == 20_000
    tone = np.sin(2 * np.pi * 220 * np.arange(16_000, 36_000) / 16_000) * 9000 / 32768
    assert np.corrcoef(sound, tone)[0, 1] > 0.99  # the stretch itself, in phase


def test_cut_json_is_never_silently_short(tmp_path, write):
    write("WenetSpeech.json", json.dumps({"audios": [entry(AUDIO, []), entry(AUDIO, [])]})[:-40])
    with pytest.raises(ValueError, match=r"WenetSpeech\.json: list 'audios' is broken or ends early"):
        list(WenetSpeech(tmp_path, ["L"]).utterances({}))
