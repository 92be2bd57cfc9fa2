from __future__ import annotations

import gzip
import json

import numpy as np

from data_prep.sources.lhotse import LhotseCuts


def cut(name: str, start: float, duration: float, supervisions: list[dict[str, object]], **more: object) -> dict[str, object]:
    return {
        "id": name,
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": supervisions,
        "type": "MonoCut",
        **more,
    }


def said(text: str, start: float, duration: float, **more: object) -> dict[str, object]:
    return {"id": text, "recording_id": "r1", "start": start, "duration": duration, "channel": 0, "text": text, **more}


def recording(kind: str = "file", source: str = "audio/r1.flac") -> dict[str, object]:
    sources = [{"type": kind, "channels": [0], "source": source}]
    return {"id": "r1", "sources": sources, "sampling_rate": 16000, "num_samples": 64000, "duration": 4.0, "channel_ids": [0]}


def write_gz(path, items) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(item) + "\n" for item in items)


def test_supervisions_of_cuts(tmp_path, make_audio, listed, told, waveform):
    samples = make_audio("audio/r1.flac", duration_s=4.0)
    two = [said("one", 0.0, 0.5, speaker="s1", language="Chinese"), said("two", 0.5, 9.0, language="Klingon")]
    cuts = [
        cut("c1", 1.0, 2.0, two, recording=recording()),
        cut("c2", 0.0, 1.0, [said("three", -0.25, 1.0)], recording=recording()),
        cut("c3", 0.0, 1.0, [], recording=recording()),
        cut("c4", 0.0, 1.0, [said("x", 0, 1)], recording=recording("command", "sph2pipe r1.sph")),
        {"id": "c5", "tracks": [], "type": "MixedCut"},
        cut("c6", 0.0, 1.0, [{"text": "no times"}], recording=recording()),
    ]
    write_gz(tmp_path / "cuts.jsonl.gz", cuts)
    utterances, dropped = listed(LhotseCuts(tmp_path, "cuts.jsonl.gz", "en"))
    assert told(utterances, "key", "text", "speaker", "language", "start_s", "end_s") == [
        ("lhotse-train-c1-0", "one", "s1", "zh", 1.0, 1.5),
        ("lhotse-train-c1-1", "two", "", "en", 1.5, 3.0),
        ("lhotse-train-c2", "three", "", "en", 0.0, 0.75),
    ]
    assert dropped == {"no text": 1, "not a file": 1, "not a MonoCut": 1, "bad entry": 1}
    assert np.array_equal(waveform(utterances[0]), samples[16_000:24_000])


def test_recordings_in_a_manifest_of_their_own(tmp_path, make_audio, listed, waveform):
    samples = make_audio("audio/r1.flac", duration_s=4.0)
    write_gz(tmp_path / "recordings.jsonl.gz", [recording()])
    bare = [cut("c1", 0.0, 4.0, [said("all", 0.0, 4.0)]), cut("c2", 0.0, 4.0, [{**said("x", 0, 1), "recording_id": "r2"}])]
    write_gz(tmp_path / "cuts.jsonl.gz", bare)
    utterances, dropped = listed(LhotseCuts(tmp_path, "cuts.jsonl.gz", "en", recordings="recordings.jsonl.gz", split="test"))
    assert ([u.key for u in utterances], dropped) == (["lhotse-test-c1"], {"not a file": 1})
    assert np.array_equal(waveform(utterances[0]), samples)
