"""python tests/cluster/tiny_stage.py FOLDER [STEPS]: shards with codes, a text tokenizer and FOLDER/tiny.yaml, a short stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import yaml

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.text.tokenizer import train_tokenizer

WORDS = ("one", "two", "three", "four")
SIZES = [4, 4]


def write(folder: Path, max_steps: int) -> Path:
    """An audio LLM of a few thousand parameters, all trained; returns the recipe."""
    samples = []
    for i in range(32):
        word = i % len(WORDS)
        codes = np.array([[word, 3 - word]] * 3, dtype=np.int16)
        sample = Sample(f"w-{i}", "numbers", "train", "en", "m1", WORDS[word], (Span(WORDS[word], 0.0, 0.1, "user"),),
                        duration_s=0.1, span_num_codes=(3,), codes=codes)  # fmt: skip
        samples.append((sample, np.zeros(2400, dtype=np.float32)))
    write_shards(samples, folder / "codes", "numbers-train", 32, {"codebook_sizes": SIZES})
    (folder / "codes" / "fingerprint.json").write_text(json.dumps({"codebook_sizes": SIZES}))
    train_tokenizer([" ".join(WORDS), "transcribe:"] * 3, 300).save(str(folder / "tokenizer.json"))
    source = {"_target_": "bcaudio.data.datamodule.Source", "shards": "${takes.codes}/numbers-train-*.tar"}
    config = {
        "model_type": "qwen2", "vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "attention_dropout": 0.2,
    }  # fmt: skip
    head = {"dim": 16, "codebook_sizes": SIZES, "num_layers": 1, "head_dim": 16}
    recipe = {
        "name": "tiny",
        "seed": 3,
        "max_steps": max_steps,
        "checkpoint_every": 1000,
        "takes": {"codes": str(folder / "codes")},
        "out": "???",
        "fingerprint": {"codebook_sizes": SIZES},
        "model": {
            "_target_": "bcaudio.models.audio_llm.AudioLLM",
            "llm": {"_target_": "bcaudio.models.text_llm.causal_lm", "config": config},
            "codebook_sizes": SIZES,
            "audio_pad_id": 6,
            "head": {"_target_": "bcaudio.nn.depth_transformer.DepthTransformer", **head},
        },
        "module": {"_target_": "bcaudio.training.audio_llm_module.AudioLLMModule", "tokenizer": str(folder)},
        "losses": {"_target_": "bcaudio.losses.weighted_sum.WeightedSum", "weights": {"text": 1.0, "audio": 1.0}},
        "optimizer": {
            "_target_": "bcaudio.training.optim.AdamWCosine", "lr": 0.02, "warmup_steps": 2, "max_steps": "${max_steps}",
        },
        "data": {
            "_target_": "bcaudio.data.datamodule.DataModule",
            "batch_size": 8,
            "max_steps": "${max_steps}",
            "collate": {
                "_target_": "bcaudio.data.batch.SequenceCollate",
                "tokenizer": str(folder), "codebook_sizes": SIZES, "row_tokens": 24,
            },
            "train": [{**source, "task": "asr"}, {**source, "task": "tts"}],
        },
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
    }  # fmt: skip
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    target.mkdir(parents=True, exist_ok=True)
    print(write(target, int(sys.argv[2]) if len(sys.argv) > 2 else 400))
