"""A stage with LoRA: the losses of one process under every way of sharding, exact resume, and weights with adapters merged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bcaudio.checkpoint import load_model, load_state, read_fingerprint, tensor_sha256
from bcaudio.strategies.export import export_checkpoint

pytest.importorskip("peft")

Launch = Callable[..., str]
Column = Callable[[Path, str], dict[int, float]]
TARGETS = r"llm\.model\.layers\..*\.self_attn\.(q|k|v|o)_proj"
LORA = [
    f"+lora={{_target_: bcaudio.training.lora.LoRA, rank: 4, alpha: 8, targets: ['{TARGETS}']}}",
    r"trainable=['audio_embedding\..*', 'audio_head\..*']",
    r"optimizer.groups=[{pattern: '.*\.lora_.*', lr: 0.03}]",
]


@pytest.fixture(scope="module")
def one(world: Path, launch: Launch) -> Path:
    """An uninterrupted run of one process."""
    launch(world / "tiny.yaml", world / "lora", 1, overrides=LORA)
    return world / "lora"


def start(world: Path, launch: Launch, to: Path) -> dict[str, torch.Tensor]:
    """The weights before the first step."""
    launch(world / "tiny.yaml", to, 1, overrides=[*LORA, "max_steps=1", "optimizer.lr=0", "optimizer.groups=[]"])
    return load_state(to)


def test_the_stage_hands_over_plain_names_with_the_adapters_merged(
    world: Path, one: Path, launch: Launch, column: Column, tmp_path: Path
) -> None:
    state, before = load_state(one), start(world, launch, tmp_path / "start")
    assert state.keys() == load_model(one).state_dict().keys()
    changed = {name for name in state if name.startswith("llm.") and not torch.equal(state[name], before[name])}
    assert changed == {f"llm.model.layers.{layer}.self_attn.{part}_proj.weight" for layer in (0, 1) for part in "qkvo"}
    frozen = json.loads((one / "stage.json").read_text())["frozen"]
    beneath = {name: tensor for name, tensor in before.items() if name.startswith("llm.")}
    assert frozen["sha256_before"] == frozen["sha256_after"] == tensor_sha256(beneath)
    losses = column(one, "train/loss")
    assert losses[7] < losses[0] - 0.5


def test_killed_and_resumed_losses_and_weights_are_exactly_those_of_the_uninterrupted_run(
    world: Path, one: Path, launch: Launch, column: Column, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launch(world / "tiny.yaml", out, 1, overrides=LORA, kill_at=5)
    assert "step=4.ckpt" in launch(world / "tiny.yaml", out, 1, overrides=LORA)
    for term in ("train/loss", "val/loss"):
        assert column(out, term) == column(one, term)
    ours, uncut = load_state(out), load_state(one)
    assert all(torch.equal(ours[name], uncut[name]) for name in uncut)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp"])
def test_adapters_in_pieces_resume_export_and_have_the_losses_of_one_process(
    world: Path, one: Path, launch: Launch, column: Column, strategy: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launch(world / "tiny.yaml", out, 2, strategy, LORA, kill_at=5)
    export_checkpoint(out / "checkpoints" / "step=4.ckpt", tmp_path / "exported")
    load_model(tmp_path / "exported")
    launch(world / "tiny.yaml", out, 2, strategy, LORA)
    ours, alone = column(out, "train/loss"), column(one, "train/loss")
    assert list(ours) == list(range(8))
    assert max(abs(ours[step] - alone[step]) for step in alone) < 1e-5
    state = load_state(out)
    torch.testing.assert_close(state, load_state(one), atol=1e-3, rtol=0)
    assert read_fingerprint(out)["weights_sha256"] == tensor_sha256(state)
    assert json.loads((out / "stage.json").read_text())["frozen"] == json.loads((one / "stage.json").read_text())["frozen"]
    exported, name = load_state(tmp_path / "exported"), "llm.model.layers.0.self_attn.q_proj.weight"
    assert 0 < (exported[name] - state[name]).abs().max() < 0.1, "the same weights four steps earlier"
