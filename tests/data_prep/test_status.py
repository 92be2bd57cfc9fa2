from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.__main__ import main as data_prep
from data_prep.status import step_costs

RECIPE = """
name: tiny
seed: 0
out: OUT
job:
  _target_: data_prep.pipeline.Pipeline
  corpora:
    - {_target_: data_prep.sources.folder.Folder, root: ROOT, language: en, corpus: tones}
  steps:
    - {_target_: data_prep.steps.loudness.Loudness}
    - {_target_: data_prep.steps.duplicates.Duplicates}
    - {_target_: data_prep.steps.snr.EstimateSnr}
"""


def test_costs_name_every_step_and_the_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    from bcaudio.audio.io import write_audio

    (tmp_path / "sounds").mkdir()
    for number in range(4):
        tone = 0.3 * np.sin(np.arange(48_000) * (0.05 + 0.02 * number)).astype(np.float32)
        write_audio(tmp_path / "sounds" / f"{number}.wav", tone, 24_000)
        (tmp_path / "sounds" / f"{number}.txt").write_text(f"tone {number}")
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(RECIPE.replace("OUT", str(out)).replace("ROOT", str(tmp_path / "sounds")))
    assert data_prep(["run", str(recipe)]) == 0
    capsys.readouterr()
    costs = step_costs(out, 0.1)
    assert list(costs) == ["open", "Loudness", "Duplicates, looking", "Duplicates, judging", "EstimateSnr", "write"]
    assert all(value > 0 for value in costs.values())
    printed = capsys.readouterr().out
    assert "on 0.1 minutes of sound, 0.1 kept" in printed  # three clips of 2 s reach 6 s
    assert "per hour kept (3 samples)" in printed


def test_costs_of_a_folder_without_a_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_prep(["status", str(tmp_path), "--costs", "1"]) == 2
    assert "no data recipe has run here" in capsys.readouterr().err
