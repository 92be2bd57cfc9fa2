"""VoiceBench's subsets, as parquet and as JSON lines."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from bcaudio.evaluation.corpora.voice_bench import VoiceBench
from bcaudio.inference.item import ItemError

WriteText = Callable[[str, str], Path]


def test_json_lines_name_their_recordings(write: WriteText, make_audio: Callable[..., np.ndarray], tmp_path: Path) -> None:
    make_audio("sd-qa/wav/a.wav", 0.25)
    lines = [
        {"audio": "wav/a.wav", "prompt": "Who?", "reference": " Ann ", "category": "x"},
        {"audio": "wav/b.wav", "prompt": "Who?", "reference": "Ann"},
        {"audio": "wav/a.wav", "prompt": "Who?"},
    ]
    write("sd-qa/usa.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    items = VoiceBench(tmp_path, "sd-qa", "usa").items("x")
    assert [item.id for item in items] == ["sd-qa-usa-00000", "sd-qa-usa-00001", "sd-qa-usa-00002"]
    assert (items[0].fields["references"], items[0].fields["category"], items[0].sample.answer) == (["Ann"], "x", "Ann")
    assert len(items[0].waveform(16000)) == 4000
    assert [item.problem for item in items] == ["", f"missing audio: {tmp_path}/sd-qa/wav/b.wav", "empty reference"]
    write("commoneval/test.jsonl", json.dumps(lines[0] | {"audio": "../sd-qa/wav/a.wav"}) + "\n")
    assert "references" not in VoiceBench(tmp_path, "commoneval").items("x")[0].fields
    write("commoneval/test.jsonl", '{"prompt": "Who?"}\n')
    with pytest.raises(ValueError, match=r"test\.jsonl:1: audio is None"):
        VoiceBench(tmp_path, "commoneval").items("x")


def test_unscored_subsets_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="subset is 'advbench'; known are alpacaeval"):
        VoiceBench(tmp_path, "advbench")
    (tmp_path / "commoneval").mkdir()
    with pytest.raises(FileNotFoundError, match=r"published at https://huggingface.co/datasets/hlt-lab/voicebench"):
        VoiceBench(tmp_path, "commoneval").items("x")


def test_parquet_without_pyarrow_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "commoneval").mkdir()
    (tmp_path / "commoneval/test-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install bcaudio\[parquet\]"):
        VoiceBench(tmp_path, "commoneval").items("x")


def test_parquet_is_read_by_row_groups_and_sound_only_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    def sound(level: float, rate: int) -> dict[str, Any]:
        file = io.BytesIO()
        soundfile.write(file, np.full(rate // 2, level), rate, format="WAV")
        return {"bytes": file.getvalue(), "path": "x.wav"}

    (tmp_path / "alpacaeval").mkdir()
    audio = [sound(0.1 * (i + 1), 8000 * (1 + i % 2)) for i in range(5)]
    audio[4] = {"bytes": b"noise", "path": "x.wav"}
    table = pyarrow.table({"audio": audio, "prompt": [f"Say {i}." for i in range(5)]})
    parquet.write_table(table.slice(0, 3), tmp_path / "alpacaeval/test-00000-of-00002.parquet", row_group_size=2)
    parquet.write_table(table.slice(3, 2), tmp_path / "alpacaeval/test-00001-of-00002.parquet")
    items = VoiceBench(tmp_path, "alpacaeval").items("x")
    assert [item.sample.text for item in items] == [f"Say {i}." for i in range(5)]
    assert [(len(item.waveform(16000)), item.waveform(16000).mean().round(1)) for item in items[:4]] == [
        (8000, 0.1), (8000, 0.2), (8000, 0.3), (8000, 0.4),
    ]  # fmt: skip
    with pytest.raises(ItemError, match=r"alpacaeval-test-00004: its audio cannot be read: .*00001-of-00002\.parquet#1: cannot"):
        items[4].waveform(16000)
    (tmp_path / "alpacaeval/test-00001-of-00002.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        VoiceBench(tmp_path, "alpacaeval").items("x")
