"""Answers in training with two processes whose weights lie in pieces: the figures of one process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning as L
import pytest

from bcaudio.callbacks.hypotheses import HypothesisCallback

Launch = Callable[..., str]


@pytest.fixture(scope="module")
def asks(world: Path) -> list[str]:
    """Overrides: hypotheses of the validation batches, and benchmarks that score and that write."""
    shards = f"{world / 'codes'}/numbers-train-*.tar"
    given = f"shards: '{shards}', split: train, batch_size: 3"
    benchmarks = (
        f"text: {{_target_: bcaudio.evaluation.perplexity.TextPerplexity, {given}}}, "
        f"asr: {{_target_: bcaudio.evaluation.asr.SpeechRecognition, language: en, limit: 10, {given}}}"
    )
    callbacks = (
        "{_target_: bcaudio.callbacks.ErrorRateCallback, languages: [en]}, "
        f"{{_target_: bcaudio.callbacks.benchmarks.BenchmarkCallback, every_n_steps: 2, benchmarks: {{{benchmarks}}}}}"
    )
    return [f"+callbacks=[{callbacks}]", "max_steps=4", "trainer.val_check_interval=2"]


@pytest.fixture(scope="module", autouse=True)
def reports() -> Iterator[None]:
    """Every process prints what its ErrorRateCallback has counted; the forked ones inherit this."""
    ending = HypothesisCallback.on_validation_epoch_end

    def end_and_tell(callback: HypothesisCallback, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        ending(callback, trainer, pl_module)
        print("COUNTED", json.dumps(callback.reports), flush=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HypothesisCallback, "on_validation_epoch_end", end_and_tell)
        yield


@pytest.fixture(scope="module")
def one(world: Path, launch: Launch, asks: list[str]) -> tuple[Path, list[str]]:
    """The folder, and what was counted at each validation."""
    said = launch(world / "tiny.yaml", world / "asks", 1, overrides=asks)
    return world / "asks", counted(said)


def counted(said: str) -> list[str]:
    return [line for line in said.splitlines() if line.startswith("COUNTED")]


def figures(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "logs" / "benchmark.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["zero3", "fsdp"])
def test_figures_of_answers_in_training_are_those_of_one_process_where_weights_lie_in_pieces(
    world: Path, one: tuple[Path, list[str]], launch: Launch, asks: list[str], strategy: str, tmp_path: Path
) -> None:
    out, (alone, told) = tmp_path / "out", one
    said = counted(launch(world / "tiny.yaml", out, 2, strategy, asks))
    assert len(set(told)) == len(told) == 2, "the model learns, so its answers change"
    assert said == [*told, *told], "on both ranks, counted once"
    assert '"utterances": 8' in told[0]
    ours, theirs = figures(out), figures(alone)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs] == [2, 4]
    for mine, his in zip(ours, theirs, strict=True):
        assert mine["values"] == pytest.approx(his["values"], rel=1e-4)
        assert mine["results"]["asr.en.wer"] == his["results"]["asr.en.wer"]
        assert mine["results"]["asr.en.wer"]["num_items"] == 10
