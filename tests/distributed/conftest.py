"""Stages trained by forked processes, as torchrun would start them."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401 (imported once, before the forks, as what else the processes would each import for seconds)
import numpy as np
import pytest
import torch
import torch._inductor.compile_fx
import torch.distributed.checkpoint.state_dict
import torch.utils.tensorboard
import transformers.models.qwen2.modeling_qwen2  # noqa: F401
import yaml

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.text.tokenizer import train_tokenizer
from bcaudio.train import train
from bcaudio.training.stage import StageModule

WORDS = ("one", "two", "three", "four")
SIZES = [4, 4]
STRATEGIES = {
    "ddp": ["+trainer.strategy=ddp"],
    "zero2": ["+trainer.strategy={_target_: bcaudio.strategies.deepspeed.ZeRO, stage: 2}"],
    "zero3": ["+trainer.strategy={_target_: bcaudio.strategies.deepspeed.ZeRO, stage: 3}"],
    "fsdp": ["+trainer.strategy={_target_: bcaudio.strategies.fsdp.FSDP}"],
}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose codes say their word, of unlike lengths, and `tiny.yaml`: an audio LLM (2 layers, hidden 32) in stage 1."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("world")
    samples = []
    for i in range(32):
        word, text = i % 4, " ".join([WORDS[i % 4]] * (1 + i % 3))
        codes = np.array([[word, 3 - word]] * (2 + i % 5), dtype=np.int16)
        sample = Sample(f"w-{i}", "numbers", "train", "en", "m1", text, (Span(text, 0.0, 0.1, "user"),),
                        duration_s=0.1, span_num_codes=(len(codes),), codes=codes)  # fmt: skip
        samples.append((sample, np.zeros(2400, dtype=np.float32)))
    write_shards(samples, folder / "codes", "numbers-train", 32, {"codebook_sizes": SIZES})
    (folder / "codes" / "fingerprint.json").write_text(json.dumps({"codebook_sizes": SIZES}))
    train_tokenizer([" ".join(WORDS), "transcribe:"] * 3, 300).save(str(folder / "tokenizer.json"))
    source = {"_target_": "bcaudio.data.datamodule.Source", "shards": "${takes.codes}/numbers-train-*.tar"}
    recipe = {
        "name": "tiny",
        "seed": 3,
        "max_steps": 8,
        "checkpoints": {"every": 2, "keep_last": 2},
        "takes": {"codes": str(folder / "codes")},
        "out": "???",
        "fingerprint": {"codebook_sizes": SIZES},
        "model": {
            "_target_": "bcaudio.models.audio_llm.AudioLLM",
            "llm": {
                "_target_": "bcaudio.models.text_llm.causal_lm",
                "config": {
                    "model_type": "qwen2", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.1, "tie_word_embeddings": False,
                },
            },
            "codebook_sizes": SIZES,
            "audio_pad_id": 6,
            "head": {
                "_target_": "bcaudio.nn.depth_transformer.DepthTransformer",
                "dim": 32, "codebook_sizes": SIZES, "num_layers": 1, "head_dim": 16,
            },
        },
        "trainable": [r"llm\.model\.layers\.1\..*", r"audio_embedding\..*", r"audio_head\..*"],
        "module": {"_target_": "bcaudio.training.audio_llm_module.AudioLLMModule", "tokenizer": str(folder)},
        "losses": {"_target_": "bcaudio.losses.weighted_sum.WeightedSum", "weights": {"text": 1.0, "audio": 0.5}},
        "optimizer": {
            "_target_": "bcaudio.training.optim.AdamWCosine", "lr": 0.01, "warmup_steps": 2, "max_steps": "${max_steps}",
            "groups": [{"pattern": r"llm\..*", "lr": 0.003}],
        },
        "data": {
            "_target_": "bcaudio.data.datamodule.DataModule",
            "batch_size": None,
            "rows": 4,
            "accumulate": 1,
            "max_steps": "${max_steps}",
            "collate": {
                "_target_": "bcaudio.data.batch.SequenceCollate",
                "tokenizer": str(folder), "codebook_sizes": SIZES, "row_tokens": 64,
            },
            "train": [{**source, "task": "asr"}, {**source, "task": "tts"}],
            "val": [{**source, "task": "asr", "limit": 8}, {**source, "task": "tts", "limit": 4}],
            "val_batch_size": 4,  # three batches: one of two ranks has one less
        },
        "callbacks": [{"_target_": "bcaudio.callbacks.SampleLedger"}],
        "trainer": {
            "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "log_every_n_steps": 1, "val_check_interval": 4,
            "gradient_clip_val": 1.0,
        },
    }  # fmt: skip
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture(scope="session")
def launch() -> Callable[..., str]:
    """`launch(recipe, out, ranks, strategy, overrides, kill_at)`; see _launch."""
    return _launch


@pytest.fixture(scope="session")
def column() -> Callable[[Path, str], dict[int, float]]:
    """`column(out, name)`: step -> value of a column of `logs/metrics.csv`."""
    return _column


def _launch(
    recipe: Path, out: Path, ranks: int, strategy: str = "", overrides: Sequence[str] = (), kill_at: int | None = None
) -> str:
    """Train with so many forked processes and return what they printed.

    With `kill_at` every process ends itself by kill -9 when that step begins; else AssertionError when one fails.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    out.parent.mkdir(parents=True, exist_ok=True)
    logs = [out.parent / f"{out.name}-{rank}.log" for rank in range(ranks)]
    context = multiprocessing.get_context("fork")
    arguments = [f"out={out}", f"trainer.devices={ranks}", *STRATEGIES.get(strategy, ()), *overrides]
    processes = [
        context.Process(target=_rank, args=(rank, ranks, port, logs[rank], recipe, arguments, kill_at)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    codes = []
    for process in processes:
        process.join(120)
        if process.is_alive():
            process.kill()
        codes.append(process.exitcode)
        if codes[-1] != 0 and kill_at is None:
            for other in processes:
                other.kill()
    text = "\n".join(log.read_text() for log in logs)
    assert codes == [0 if kill_at is None else -signal.SIGKILL] * ranks, f"exit codes {codes}\n{text}"
    return text


def _rank(rank: int, ranks: int, port: int, log: Path, recipe: Path, overrides: list[str], kill_at: int | None) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        sys.stdout = sys.stderr = stream  # pytest's own objects do not write to 1 and 2
        code = 1
        try:
            if kill_at is not None:
                _kill_at(kill_at)
            code = train(str(recipe), overrides)
        except BaseException:
            traceback.print_exc()
        stream.flush()
        os._exit(code)


def _kill_at(step: int) -> None:
    begin = StageModule.on_train_batch_start

    def begin_or_die(module: StageModule, batch: Any, batch_idx: int) -> None:
        if batch.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        begin(module, batch, batch_idx)

    StageModule.on_train_batch_start = begin_or_die  # in this forked process alone


def _column(out: Path, name: str) -> dict[int, float]:
    with open(out / "logs" / "metrics.csv", newline="") as stream:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(stream) if row.get(name)}
