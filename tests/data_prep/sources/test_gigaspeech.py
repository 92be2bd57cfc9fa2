from __future__ import annotations

import json

import pytest

from data_prep.sources.gigaspeech import GigaSpeech, read_tags


def segment(number: int, text: str, subset: str, speaker: str = "N/A") -> dict[str, object]:
    times = {"begin_time": number + 0.5, "end_time": number + 1.0}
    return {"sid": f"POD0000000001_S{number:07d}", "speaker": speaker, **times, "text_tn": text, "subsets": [subset, "{XL}"]}


def test_segments_of_the_published_layout(tmp_path, make_audio, write, listed, told, waveform):
    path = "audio/podcast/P0000/POD0000000001.opus"
    make_audio(path, duration_s=3.0)
    segments = [
        segment(0, "DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE <COMMA> OK <PERIOD>", "{S}"),
        segment(1, "<MUSIC>", "{S}"),
        segment(2, "WHO <QUESTIONMARK>", "{DEV}", "SPK3"),
    ]
    audio = {"aid": "POD0000000001", "path": path, "segments": segments, "subsets": ["{S}", "{XL}"], "sample_rate": 16000}
    write("GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "language": "EN", "audios": [audio]}))
    utterances, dropped = listed(GigaSpeech(tmp_path, ["S", "DEV"]))
    assert told(utterances, "key", "text", "speaker", "split", "start_s", "end_s") == [
        ("gigaspeech-train-POD0000000001_S0000000", "DOUGLAS MCGRAY IS GOING TO BE OUR GUIDE, OK.", "", "train", 0.5, 1.0),
        ("gigaspeech-dev-POD0000000001_S0000002", "WHO?", "SPK3", "dev", 2.5, 3.0),
    ]
    assert dropped == {"no speech": 1}
    assert len(waveform(utterances[0])) == 8_000
    assert listed(GigaSpeech(tmp_path, ["M"])) == ([], {})


@pytest.mark.parametrize(
    ("text", "expected"), [("STOP <EXCLAMATIONPOINT> NOW", "STOP! NOW"), ("A <SIL>", None), ("A <OTHER> B", None)]
)
def test_tags_become_punctuation_or_garbage(text, expected):
    assert read_tags(text) == expected
