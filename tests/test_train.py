"""One stage from its recipe to its folder: exact resume, frozen proof, fingerprints, gates."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from bcaudio.checkpoint import load_state
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.recipe.errors import RecipeError
from bcaudio.text.tokenizer import train_tokenizer
from bcaudio.train import train

WORDS = ("one", "two", "three", "four")
SIZES = [4, 4]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose codes say their word, a text tokenizer, and a recipe of a tiny audio LLM with the LLM frozen."""
    folder = tmp_path_factory.mktemp("world")
    samples = []
    for i in range(32):
        word = i % 4
        codes = np.array([[word, 3 - word]] * 3, dtype=np.int16)
        sample = Sample(f"w-{i}", "numbers", "train", "en", "m1", WORDS[word], (Span(WORDS[word], 0.0, 0.1, "user"),),
                        duration_s=0.1, span_num_codes=(3,), codes=codes)  # fmt: skip
        samples.append((sample, np.zeros(2400, dtype=np.float32)))
    write_shards(samples, folder / "codes", "numbers-train", 32, {"codebook_sizes": SIZES})
    (folder / "codes" / "fingerprint.json").write_text(json.dumps({"codebook_sizes": SIZES}))
    train_tokenizer([" ".join(WORDS), "transcribe:"] * 3, 300).save(str(folder / "tokenizer.json"))
    source = {"_target_": "bcaudio.data.datamodule.Source", "shards": "${takes.codes}/numbers-train-*.tar"}
    recipe = {
        "name": "tiny",
        "seed": 3,
        "max_steps": 12,
        "checkpoint_every": 2,
        "takes": {"codes": str(folder / "codes")},
        "out": "???",
        "fingerprint": {"codebook_sizes": SIZES},
        "model": {
            "_target_": "bcaudio.models.audio_llm.AudioLLM",
            "llm": {
                "_target_": "bcaudio.models.text_llm.causal_lm",
                "config": {
                    "model_type": "qwen2", "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                    "num_attention_heads": 2, "num_key_value_heads": 1, "attention_dropout": 0.2,
                },
            },
            "codebook_sizes": SIZES,
            "audio_pad_id": 6,
            "head": {
                "_target_": "bcaudio.nn.depth_transformer.DepthTransformer",
                "dim": 16, "codebook_sizes": SIZES, "num_layers": 1, "head_dim": 16,
            },
        },
        "trainable": [r"audio_embedding\..*", r"audio_head\..*"],
        "module": {"_target_": "bcaudio.training.audio_llm_module.AudioLLMModule", "tokenizer": str(folder)},
        "losses": {"_target_": "bcaudio.losses.weighted_sum.WeightedSum", "weights": {"text": 1.0, "audio": 1.0}},
        "optimizer": {
            "_target_": "bcaudio.training.optim.AdamWCosine", "lr": 0.02, "warmup_steps": 2, "max_steps": "${max_steps}",
        },
        "data": {
            "_target_": "bcaudio.data.datamodule.DataModule",
            "batch_size": 4,
            "max_steps": "${max_steps}",
            "collate": {
                "_target_": "bcaudio.data.batch.SequenceCollate",
                "tokenizer": str(folder), "codebook_sizes": SIZES, "row_tokens": 24,
            },
            "train": [{**source, "task": "asr"}, {**source, "task": "tts"}],
            "val": [{**source, "task": "asr", "limit": 8}],
        },
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, "val_check_interval": 12},
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="module")
def finished(world: Path) -> Path:
    out = world / "finished"
    assert train(str(world / "tiny.yaml"), [f"out={out}"]) == 0
    return out


def record_of(folder: Path) -> dict:
    return json.loads((folder / "stage.json").read_text())


def test_only_the_trainable_part_changes_and_the_record_proves_it(finished: Path) -> None:
    record = record_of(finished)
    assert (record["status"], record["steps"]) == ("done", 12)
    assert record["frozen"]["sha256_before"] == record["frozen"]["sha256_after"]
    assert record["frozen"]["num_parameters"] > 0
    assert record["trainable"]["num_parameters"] > 0
    assert not (finished / "checkpoints").exists()


def test_loss_goes_down(world: Path, tmp_path: Path) -> None:
    everything = ["trainable=['.*']", "max_steps=60", "trainer.val_check_interval=60"]
    train(str(world / "tiny.yaml"), [f"out={tmp_path / 'x'}", *everything])
    rows = [line.split(",") for line in (tmp_path / "x/logs/metrics.csv").read_text().splitlines()]
    at = rows[0].index("train/loss")
    losses = [float(row[at]) for row in rows[1:] if row[at]]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_kill_and_the_same_command_again_gives_the_same_weights(world: Path, finished: Path) -> None:
    out = world / "killed"
    command = [sys.executable, "-m", "bcaudio", "train", str(world / "tiny.yaml"), f"out={out}"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("*.ckpt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert record_of(out)["status"] == "running", "the run ended before it could be killed; give it more steps"
    assert subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False).returncode == 0
    record = record_of(out)
    assert record["attempts"] == 2
    ours, uncut = load_state(out), load_state(finished)
    assert ours.keys() == uncut.keys()
    assert all(torch.equal(ours[name], uncut[name]) for name in ours)
    steps = [int(line.split(",")[at]) for at, line in _step_lines(out)]
    assert set(steps) == set(range(12)), "metrics of both attempts are kept"


def _step_lines(out: Path) -> list[tuple[int, str]]:
    header, *lines = (out / "logs" / "metrics.csv").read_text().splitlines()
    return [(header.split(",").index("step"), line) for line in lines]


def test_a_damaged_checkpoint_is_passed_over(world: Path, finished: Path) -> None:
    out = world / "damaged"
    damaged = out / "checkpoints" / "step=99.ckpt"
    damaged.mkdir(parents=True)
    (damaged / "state.ckpt").write_bytes(b"cut off")
    (damaged / "checkpoint.json").write_text(json.dumps({"files": {"state.ckpt": 7}}))
    assert train(str(world / "tiny.yaml"), [f"out={out}"]) == 0
    assert record_of(out)["metrics"] == record_of(finished)["metrics"]


def test_codes_of_another_layout_are_refused_with_both_values(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codebook_sizes.*\[4, 8\].*\[4, 4\]"):
        train(str(world / "tiny.yaml"), [f"out={tmp_path / 'x'}", "fingerprint.codebook_sizes=[4,8]"])


def test_a_missed_gate_is_told_with_value_and_bound(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"val/loss = .*'max': 0.001"):
        train(str(world / "tiny.yaml"), [f"out={tmp_path / 'x'}", "+gate={val/loss: {max: 0.001}}"])
    assert record_of(tmp_path / "x")["status"] == "failed"


def test_every_mistake_is_told_before_anything_runs(world: Path, tmp_path: Path) -> None:
    wrong = ["+optimizer.lrr=1", "data.batch_size=many", f"out={tmp_path / 'x'}"]
    with pytest.raises(RecipeError) as caught:
        train(str(world / "tiny.yaml"), wrong)
    for word in ("optimizer.lrr", "'lr'", "data.batch_size"):
        assert word in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_audio_pad_of_another_tokenizer_is_refused_with_both_ids(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"audio_pad_id is 7, but .* gives the audio pad id 6"):
        train(str(world / "tiny.yaml"), [f"out={tmp_path / 'x'}", "model.audio_pad_id=7"])


def test_an_average_of_the_weights_is_what_a_stage_hands_over_when_its_recipe_asks(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x"
    average = "+callbacks=[{_target_: bcaudio.training.average.EMA, decay: 0.9}]"
    train(str(world / "tiny.yaml"), [f"out={out}", average])
    ours, last = load_state(out), load_state(finished)
    trained, frozen = "audio_embedding.tables.0.weight", "llm.lm_head.weight"
    assert torch.equal(ours[frozen], last[frozen])
    assert (ours[trained] - last[trained]).abs().max() > 1e-3, "twelve steps behind on average"
    assert record_of(out)["frozen"] == record_of(finished)["frozen"]
