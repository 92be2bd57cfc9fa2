from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bcaudio.data import inspect
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    samples = [
        (
            Sample(
                key=f"numbers-train-en-{i}",
                corpus="numbers",
                split="train",
                language="en",
                speaker="m3",
                text="seven",
                spans=(Span("seven", 0.0, 30.0, "user"),),
                duration_s=30.0,
            ),
            np.zeros(720_000, np.float32),
        )
        for i in range(2)
    ]
    return write_shards(samples, tmp_path, "numbers-train", 1, {})


def test_verify_lists_every_broken_shard_and_exits_one(tars: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.verify(tars) == 0
    for tar in tars:
        tar.write_bytes(tar.read_bytes()[:-512])
    assert inspect.verify(tars) == 1
    printed = capsys.readouterr().out
    assert "numbers-train-000000.tar" in printed
    assert "numbers-train-000001.tar" in printed


def test_stats_counts_minutes_per_corpus(
    tars: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert inspect.stats(tars) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "numbers" in line)
    assert row.replace("│", " ").split()[:6] == ["numbers", "train", "en", "2", "1", "1.0"]  # two clips of 30 s: 1.0 minute
    assert inspect.ls(tars) == 0


def test_show_prints_the_sample_or_says_it_is_unknown(tars: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect.show(tars, "numbers-train-en-1") == 0
    assert '"text": "seven"' in capsys.readouterr().out
    assert inspect.show(tars, "numbers-train-en-9") == 1
    assert "in none of 2 shards; similar: numbers-train-en-0" in " ".join(capsys.readouterr().out.split())


def test_verify_finds_a_key_that_two_shards_of_a_folder_have(tars: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for suffix in (".tar", ".idx"):
        tars[0].with_name(f"other-000000{suffix}").write_bytes(tars[0].with_suffix(suffix).read_bytes())
    assert inspect.verify([tars[0].parent / "*.tar"]) == 1
    printed = capsys.readouterr().out
    assert "other-000000.tar: key 'numbers-train-en-0' is also in" in printed
    assert "1 problems in 3 shards" in printed
    elsewhere = tars[0].parent / "copy"
    elsewhere.mkdir()
    for suffix in (".tar", ".idx"):
        tars[0].with_name(f"other-000000{suffix}").rename(elsewhere / f"other-000000{suffix}")
    assert inspect.verify([tars[0].parent / "**" / "*.tar"]) == 0  # other folders may hold the same keys: phases, codes


def test_stats_counts_hours_per_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    spans = (Span("", 0.0, 0.0, "user"),)
    for i, licence in enumerate(("CC0", "CC-BY", "CC-BY")):
        sample = Sample(f"t-{i}", "t", "train", "en", "", "", spans, licence=licence, source="web")
        write_shards([(sample, None)], tmp_path, f"t{i}-train", 1, {})
    assert inspect.stats([tmp_path / "*.tar"]) == 0
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    assert ["licence", "CC0", "1", "0.00"] in lines
    assert ["licence", "CC-BY", "2", "0.00"] in lines
    assert ["source", "web", "3", "0.00"] in lines
