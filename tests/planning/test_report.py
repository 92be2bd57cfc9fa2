"""`bcaudio plan`: what it prints, what it refuses."""

from pathlib import Path

import pytest

from bcaudio.cli import main

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
STAGE1, STAGE2 = RECIPES / "micro" / "stage1.yaml", RECIPES / "baichuan_audio_7b" / "stage2.yaml"


def test_a_small_stage_fits_and_the_output_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(STAGE1), "--gpus-per-node", "2"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0] == "stage1: fits as written: 2.4 GiB of 80 GiB per GPU (2 x h100-80gb)"
    takes = "takes.codes=FOLDER takes.text=FOLDER takes.text_tokenizer=FOLDER takes.tokenizer=FOLDER takes.text_llm=FOLDER"
    assert lines[-1].strip() == f"bcaudio train {STAGE1} {takes} out=FOLDER"


def test_too_many_rows_are_answered_with_fewer_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(STAGE1), "--gpus-per-node", "1", "--gpu", "l4-24gb", "data.batch_size=100000"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("stage1: DOES NOT FIT as written")
    assert "rows per GPU at a time (data.rows with data.accumulate: " in first


@pytest.mark.slow
def test_stage_2_of_7b_needs_sharding_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "stage2.md"
    argv = ["plan", str(STAGE2), "trainer.strategy=ddp", "--nodes", "2", "--price-per-gpu-hour", "2", "--markdown", str(page)]
    assert main(argv) == 0
    out = capsys.readouterr().out
    first, *_, last = out.strip().splitlines()
    assert "DOES NOT FIT as written" in first
    assert "bcaudio.strategies.deepspeed.ZeRO" in first
    assert last.strip().startswith(f"bcaudio launch {STAGE2} --backend slurm --nodes 2")
    text = page.read_text()
    assert text.startswith(f"`bcaudio plan {STAGE2} trainer.strategy=ddp --gpu h100-80gb --nodes 2")
    assert first in text
    # the published element counts (tests/recipes)
    assert "| total | 9,142,488,072 | 8,052,493,320 | 1,089,994,752 |" in text
    assert "cost at 2 per GPU-hour" in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--gpu", "h100-80"], "--gpu: no GPU 'h100-80' in the table; did you mean 'h100-80gb'?; known: a10-24gb"),
        (["--nodes", "0"], "--nodes: is 0, but must be at least 1"),
        (["--mfu", "1.5"], "--mfu: is 1.5, but must lie above 0"),
        (["--clip-s", "0"], "--clip-s: is 0.0, but must be above 0"),
        (["data=null"], "data: missing in the recipe, and a plan needs it"),
        (["data.batch_size=null"], "data.batch_size: missing in the recipe"),
        (["data.train.0.task=asrr"], "data.train.0.task: unknown task 'asrr'; did you mean 'asr'?"),
        (["+data.rows=12", "--gpus-per-node", "8"], "data.rows: 12 rows cannot be shared by 8 ranks and 1 micro-batches"),
    ],
)
def test_mistakes_are_refused_in_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(STAGE1), *argv]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_recipe_that_trains_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPES / "base" / "audio_llm_7b.yaml")]) == 2
    assert "module: missing in the recipe" in capsys.readouterr().err


def test_a_pipeline_gets_a_row_per_training_stage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(RECIPES / "micro" / "pipeline.yaml"), "--gpus-per-node", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("pipeline: all stages fit on 1 x h100-80gb")
    rows = [line.split()[0] for line in out.splitlines() if " yes " in line]
    assert rows == ["text_llm", "tokenizer", "vocoder", "stage1", "flow", "stage2", "sft"]
