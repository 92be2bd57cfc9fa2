"""The benchmarks of data at tiny sizes: what is compared must agree, how fast is not asked."""

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import data_work, suite_data
from benchmarks.measure import WrongResultError
from data_prep.steps.words import pieces_of
from data_prep.utterance import Clip, Drops, Word


@pytest.mark.parametrize(
    ("entry", "names", "sizes"),
    [
        (suite_data.reading, ["reading.tarfile", "reading.webdataset"], {"count": 6, "max_s": 0.2, "samples_per_shard": 4}),
        (suite_data.workers, ["workers.two"], {"count": 16, "max_s": 0.2, "samples_per_shard": 8}),
        (suite_data.open_index, ["open_index.seconds"], {"num_shards": 12, "samples_per_shard": 50}),
        (suite_data.plan, ["plan.seconds", "plan.memory", "plan.growth"], {"count": 2000}),
    ],
    ids=["reading", "workers", "open_index", "plan"],
)
def test_entries_give_rows_with_bars(entry, names, sizes) -> None:
    rows = entry(**sizes, repeats=1)
    assert [row.name for row in rows] == names
    assert all(row.ratio > 0 and math.isfinite(row.ratio) and row.conditions for row in rows)


def test_a_reader_that_gives_another_sample_is_no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    right = suite_data._by_tarfile
    monkeypatch.setattr(suite_data, "_by_tarfile", lambda tars: ((key + "x", wave) for key, wave in right(tars)))
    with pytest.raises(WrongResultError, match="bench-train-en-000000x where ours gives bench-train-en-000000"):
        suite_data.reading(count=2, max_s=0.1, repeats=1)


AUDITOR = suite_data._auditor()


def test_preparation_compares_equal_shards_by_espeaks_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("silero_vad")
    pytest.importorskip("espeakng_loader")
    monkeypatch.setattr(suite_data, "_auditor", lambda: "")
    monkeypatch.setattr(suite_data, "find_spec", lambda name: None)
    (row,) = suite_data.preparation(hours=0.02, samples_per_shard=3)
    assert (row.name, row.bar) == ("preparation.two_workers", 1.8)
    assert ", 0 clips lost; silero-vad, words by espeak-ng: no auditor here" in row.conditions
    assert row.ratio > 0


@pytest.mark.slow
@pytest.mark.skipif(not AUDITOR, reason="no trained auditor")
def test_preparation_by_the_auditor_gives_the_same_shards_on_ray() -> None:
    pytest.importorskip("ray")
    rows = suite_data.preparation(hours=0.02, samples_per_shard=3)
    assert [row.name for row in rows] == ["preparation.two_workers", "preparation.ray"]
    assert "words by the micro auditor" in rows[0].conditions


@pytest.mark.skipif(not suite_data._trained("aligner"), reason="no trained aligner")
def test_alignment_is_measured_per_language() -> None:
    rows = suite_data.alignment(count=2)
    assert [row.name for row in rows] == ["alignment.en", "alignment.zh"]
    assert all(0 < row.ours < 500 and "ends of words" in row.conditions for row in rows)


def test_alignment_without_an_aligner_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BCAUDIO_ALIGNER", "/nowhere")
    assert suite_data.alignment() == []
    assert "alignment: left out, there is no runs/micro/aligner" in capsys.readouterr().err


class Shifted:
    """An aligner that begins espeak-ng's own words 30 ms late and ends them 40 ms late."""

    known: list[Clip]

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def __call__(self, clips: Iterator[Clip], drops: Drops) -> Iterator[Clip]:
        for clip in clips:
            (exact,) = (one for one in self.known if one.utterance.key == clip.utterance.key)
            words = []
            for word in exact.words:
                parts = pieces_of(word.text, clip.utterance.language)
                middle = (word.start_s + word.end_s) / 2
                edges = [word.start_s + 0.03, *[middle] * (len(parts) - 1), word.end_s + 0.04]
                words += [Word(part.text, edges[i], edges[i + 1]) for i, part in enumerate(parts)]
            yield replace(clip, words=tuple(words))


@pytest.mark.parametrize("language", ["en", "zh"])
def test_boundary_errors_are_those_of_the_words_that_espeak_times(language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader")
    Shifted.known = [clip for corpus in ("numbers", "stories") for clip in data_work.spoken(corpus, "test", 3)]
    monkeypatch.setattr(data_work, "Align", Shifted)
    errors = data_work.boundary_errors("", language, 3)
    num_words = sum(len(clip.words) for clip in Shifted.known if clip.utterance.language == language)
    assert len(errors["starts"]) == len(errors["ends"]) == num_words
    assert np.allclose(errors["starts"], 0.03)
    assert np.allclose(errors["ends"], 0.04)


def test_the_words_of_a_recording_lie_in_its_sound(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    assert data_work.record_speech(str(tmp_path), hours=0.005) >= 0.005
    fields = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {item["language"] for item in fields} == {"en", "zh"}
    for item in fields:
        sound, rate = soundfile.read(tmp_path / item["audio"])
        words = json.loads((tmp_path / "words.json").read_text())[item["key"]]
        assert np.abs(sound[: rate // 2]).max() == np.abs(sound[-rate // 2 :]).max() == 0
        assert 0.5 < words[0][1] < 0.65  # 0.5 s of silence, then the synthesiser's margin
        assert words[-1][2] < len(sound) / rate - 0.5
