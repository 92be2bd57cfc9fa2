"""Two processes under DDP, ZeRO-2, ZeRO-3 and FSDP: the losses of one process, resume after kill -9, one export.

Two processes take their rows in two micro-batches each, the single one all at once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bcaudio.callbacks import read_ledger
from bcaudio.checkpoint import load_model, load_state, read_fingerprint, tensor_sha256
from bcaudio.strategies.export import export_checkpoint

NAMES = ("ddp", "zero2", "zero3", "fsdp")
HALVES = ["data.accumulate=2"]
Launch = Callable[..., str]
Column = Callable[[Path, str], dict[int, float]]


@pytest.fixture(scope="module")
def finished(world: Path, launch: Launch) -> dict[str, Path]:
    """Uninterrupted runs: one process, and two under each strategy."""
    outs = {"one": world / "one", **{name: world / name for name in NAMES}}
    for name, out in outs.items():
        launch(world / "tiny.yaml", out, *((1, "") if name == "one" else (2, name, HALVES)))
    return outs


@pytest.fixture(scope="module")
def killed(world: Path, launch: Launch) -> dict[str, Path]:
    """The same with two processes, killed in step 5: checkpoints of steps 2 and 4 are left."""
    outs = {name: world / f"killed-{name}" for name in NAMES}
    for name, out in outs.items():
        launch(world / "tiny.yaml", out, 2, name, HALVES, kill_at=5)
        assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step=2.ckpt", "step=4.ckpt"]
    return outs


def copy(killed: dict[str, Path], name: str, to: Path) -> Path:
    """The folder as the kill left it, for a resume of its own. The path of a stage does not count for what it is."""
    shutil.copytree(killed[name], to)
    return to


def frozen_proof(out: Path) -> dict[str, str]:
    return json.loads((out / "stage.json").read_text())["frozen"]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_have_the_losses_of_one(finished: dict[str, Path], column: Column, name: str) -> None:
    for term in ("loss", "text", "audio", "audio_level_0", "audio_level_1", "asr.text", "tts.audio"):
        ours, one = column(finished[name], f"train/{term}"), column(finished["one"], f"train/{term}")
        assert list(ours) == list(one) == list(range(8))
        assert max(abs(ours[step] - one[step]) for step in one) < 1e-5
        ours, one = column(finished[name], f"val/{term}"), column(finished["one"], f"val/{term}")
        assert list(ours) == list(one) == [3, 7]
        assert max(abs(ours[step] - one[step]) for step in one) < 1e-5


def test_losses_depend_on_what_was_trained(finished: dict[str, Path], column: Column) -> None:
    losses = column(finished["one"], "train/loss")
    assert losses[7] < losses[0] - 1


@pytest.mark.parametrize("name", NAMES)
def test_the_frozen_part_is_proved_and_complete_in_the_export(finished: dict[str, Path], name: str) -> None:
    ours, one = load_state(finished[name]), load_state(finished["one"])
    proof = frozen_proof(finished[name])
    assert proof == frozen_proof(finished["one"])
    assert proof["sha256_before"] == proof["sha256_after"]
    assert ours.keys() == one.keys() == load_model(finished["one"]).state_dict().keys()
    frozen = {key for key in one if key.startswith("llm.") and "layers.1." not in key}
    assert proof["sha256_after"] == tensor_sha256({key: ours[key] for key in frozen})
    assert all(torch.equal(ours[key], one[key]) for key in frozen)
    assert all(ours[key].dtype == torch.float32 for key in ours)
    torch.testing.assert_close(ours, one, atol=1e-3, rtol=0)  # Adam enlarges rounding where gradients are near 0
    assert read_fingerprint(finished[name])["weights_sha256"] == tensor_sha256(ours)


@pytest.mark.parametrize("name", NAMES)
def test_killed_and_resumed_losses_are_exactly_those_of_the_uninterrupted_run(
    world: Path, finished: dict[str, Path], killed: dict[str, Path], launch: Launch, column: Column, name: str, tmp_path: Path
) -> None:
    out = copy(killed, name, tmp_path / "out")
    said = launch(world / "tiny.yaml", out, 2, name, HALVES)
    assert f"resuming from {out}/checkpoints/step=4.ckpt" in said
    for term in ("train/loss", "val/loss"):
        assert column(out, term) == column(finished[name], term)
    ours, uncut = load_state(out), load_state(finished[name])
    assert all(torch.equal(ours[key], uncut[key]) for key in uncut)
    assert frozen_proof(out) == frozen_proof(finished[name])
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize(
    ("name", "ranks", "strategy", "accumulate"),
    [
        ("ddp", 1, "ddp", 4),
        ("zero2", 1, "zero3", 1),
        ("zero3", 1, "zero2", 1),
        ("fsdp", 1, "fsdp", 1),
        ("fsdp", 2, "ddp", 1),
    ],
)
def test_other_processes_micro_batches_and_strategies_go_on_with_the_same_samples(
    world: Path, finished: dict[str, Path], killed: dict[str, Path], launch: Launch, column: Column,
    name: str, ranks: int, strategy: str, accumulate: int, tmp_path: Path,
) -> None:  # fmt: skip
    out = copy(killed, name, tmp_path / "out")
    said = launch(world / "tiny.yaml", out, ranks, strategy, [f"data.accumulate={accumulate}"])
    assert f"resuming from {out}/checkpoints/step=4.ckpt" in said
    ours, uncut = column(out, "train/loss"), column(finished["one"], "train/loss")
    assert list(ours) == list(range(8))
    assert max(abs(ours[step] - uncut[step]) for step in uncut) < 1e-5
    seen = read_ledger(finished["one"])
    assert list(seen) == list(range(8))
    assert all(seen.values())
    assert read_ledger(out) == seen


@pytest.mark.parametrize(("strategy", "named"), [("zero2", "ZeRO"), ("fsdp", "FSDP")])
def test_a_checkpoint_of_ddp_is_refused_by_others_with_the_remedy(
    world: Path, killed: dict[str, Path], launch: Launch, strategy: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=rf"written by another strategy, not by {named}.*bcaudio export CHECKPOINT"):
        launch(world / "tiny.yaml", copy(killed, "ddp", tmp_path / "out"), 1, strategy)


def test_ranks_without_a_validation_batch_take_part_and_samples_may_be_counted_in_place_of_rows(
    world: Path, launch: Launch, column: Column, tmp_path: Path
) -> None:
    overrides = ["data.rows=null", "data.batch_size=8", "data.val_batch_size=12", "max_steps=4"]
    source = "_target_: bcaudio.data.datamodule.Source, shards: '${takes.codes}/numbers-train-*.tar', task: tts, limit: 10"
    overrides += [f"data.val=[{{{source}}}]"]  # one batch
    launch(world / "tiny.yaml", tmp_path / "one", 1, overrides=overrides)
    launch(world / "tiny.yaml", tmp_path / "two", 2, "ddp", overrides)
    for term in ("train/loss", "train/audio_level_1", "val/loss", "val/tts.audio"):
        ours, one = column(tmp_path / "two", term), column(tmp_path / "one", term)
        assert list(ours) == list(one) == ([3] if term.startswith("val") else list(range(4)))
        assert max(abs(ours[step] - one[step]) for step in one) < 1e-5


@pytest.mark.parametrize("name", ["zero2", pytest.param("zero3", marks=pytest.mark.slow)])
def test_bf16_is_near_fp32_and_exports_fp32_with_buffers_and_frozen_weights(
    world: Path, finished: dict[str, Path], launch: Launch, column: Column, name: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launch(world / "tiny.yaml", out, 2, name, [*HALVES, "+trainer.precision=bf16-mixed", "data.max_steps=4"])
    ours, full = column(out, "train/loss"), column(finished["one"], "train/loss")
    assert list(ours) == list(range(4))
    assert 0 < max(abs(ours[step] - full[step]) for step in ours) < 0.1
    state, one = load_state(out), load_state(finished["one"])
    assert {key: (tensor.dtype, tensor.shape) for key, tensor in state.items()} == {
        key: (tensor.dtype, tensor.shape) for key, tensor in one.items()
    }
    frozen = "llm.model.embed_tokens.weight"
    assert torch.equal(state[frozen], one[frozen].bfloat16().float())
    trained = state["audio_embedding.tables.0.weight"]
    assert not torch.equal(trained, trained.bfloat16().float()), "the fp32 masters, not the rounded weights"
    assert frozen_proof(out)["sha256_before"] == frozen_proof(out)["sha256_after"]


@pytest.mark.parametrize("name", NAMES)
def test_any_checkpoint_becomes_the_same_one_file(killed: dict[str, Path], name: str, tmp_path: Path) -> None:
    states = {}
    for one in {"ddp", name}:
        export_checkpoint(killed[one] / "checkpoints" / "step=4.ckpt", tmp_path / one)
        states[one] = load_model(tmp_path / one).state_dict()
        assert read_fingerprint(tmp_path / one)["weights_sha256"] == tensor_sha256(load_state(tmp_path / one))
    torch.testing.assert_close(states[name], states["ddp"], atol=1e-3, rtol=0)  # see above
    trained = "audio_embedding.tables.0.weight"
    torch.testing.assert_close(states[name][trained], states["ddp"][trained], atol=1e-6, rtol=0)
    other = tmp_path / "other"
    export_checkpoint(killed[name] / "checkpoints" / "step=2.ckpt", other)
    assert not torch.equal(load_state(other)["audio_head.heads.0.weight"], states[name]["audio_head.heads.0.weight"])
