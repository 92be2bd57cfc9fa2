"""A finished run in miniature: every part real and untrained, saved as its stage would leave it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from bcaudio.checkpoint import save_model
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.recipe.build import build
from bcaudio.text.tokenizer import train_tokenizer

SIZES, DIM, AUDIO_PAD = [8, 4], 16, 6
SYSTEM = {
    "text_tokenizer": "text_tokenizer", "tokenizer": "tokenizer", "audio_llm": "sft", "flow_decoder": "flow",
    "vocoder": "vocoder", "auditor": "auditor",
}  # fmt: skip

TOKENIZER = {
    "_target_": "bcaudio.models.audio_tokenizer.AudioTokenizer",
    "frontend": {"_target_": "bcaudio.audio.mel.WhisperLogMel", "n_mels": 12, "max_audio_s": 2.0},
    "encoder": {
        "_target_": "bcaudio.nn.whisper_encoder.WhisperEncoder",
        "num_mels": 12, "dim": DIM, "num_layers": 1, "num_heads": 2, "ffn_dim": 32,
    },
    "bridge": {
        "_target_": "bcaudio.models.audio_tokenizer.VQBridge",
        "dim": DIM,
        "quantizer": {
            "_target_": "bcaudio.nn.residual_vq.ResidualVQ", "codebook_sizes": SIZES, "dim": 4 * DIM, "kmeans_init": False,
        },
    },
    "decoder": {
        "_target_": "bcaudio.models.audio_tokenizer.AudioDecoder",
        "dim": DIM, "num_layers": 1, "num_heads": 2, "ffn_dim": 32, "refiner_channels": [8],
    },
}  # fmt: skip
FLOW = {
    "_target_": "bcaudio.models.flow_decoder.FlowDecoder",
    "prenet": {
        "_target_": "bcaudio.models.flow_decoder.FlowPrenet",
        "in_dim": DIM, "d_model": 8, "num_heads": 2, "ffn_dim": 16, "num_layers": 1, "max_source_positions": 8,
    },
    "estimator": {
        "_target_": "bcaudio.nn.unet1d.VelocityUNet",
        "channels": [8], "n_blocks": 1, "num_mid_blocks": 1, "num_heads": 1, "attention_head_dim": 8,
    },
    "diffusion_steps": 2,
    "mel_mean": -5.0,
    "mel_std": 2.0,
}  # fmt: skip
VOCODER = {
    "_target_": "bcaudio.models.vocoder.Vocoder",
    "base_channels": 16, "f0_channels": 8, "resblock_kernel_sizes": [3], "resblock_dilations": [[1]],
    "source_resblock_kernel_sizes": [3, 3, 3], "source_resblock_dilations": [[1], [1], [1]],
}  # fmt: skip
AUDITOR = {"_target_": "bcaudio.models.ctc_recognizer.CTCRecognizer", "units": ["one", "two"], "dim": 8, "num_layers": 1}


def llm_node(codebook_sizes: list[int]) -> dict[str, Any]:
    sizes = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "qwen2", "vocab_size": 320, "num_key_value_heads": 1, "initializer_range": 0.3, **sizes}
    head = {"dim": DIM, "codebook_sizes": codebook_sizes, "num_layers": 1, "head_dim": 16}
    return {
        "_target_": "bcaudio.models.audio_llm.AudioLLM",
        "llm": {"_target_": "bcaudio.models.text_llm.causal_lm", "config": config},
        "codebook_sizes": codebook_sizes,
        "audio_pad_id": AUDIO_PAD,
        "head": {"_target_": "bcaudio.nn.depth_transformer.DepthTransformer", **head},
    }


def finish(folder: Path, node: dict[str, Any], fingerprint: dict[str, Any]) -> nn.Module:
    """Build a model and leave it in the folder of a stage that is done."""
    torch.manual_seed(0)
    model = build(node)
    if isinstance(model, AudioLLM):  # audio ends by its frame limit, not by chance
        model.audio_head.heads[0].bias.data[-1] = -100.0
    save_model(folder, model, fingerprint)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": node}))
    (folder / "stage.json").write_text(json.dumps({"status": "done"}))
    return model.eval()


@pytest.fixture(scope="session")
def finish_stage() -> Callable[[Path, dict[str, Any], dict[str, Any]], nn.Module]:
    return finish


@pytest.fixture(scope="session")
def audio_llm_node() -> Callable[[list[int]], dict[str, Any]]:
    return llm_node


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose pipeline.yaml names the system; to be read only."""
    run = tmp_path_factory.mktemp("run")
    fingerprint = {"codebook_sizes": SIZES}
    nodes = {"tokenizer": TOKENIZER, "sft": llm_node(SIZES), "flow": FLOW, "vocoder": VOCODER, "auditor": AUDITOR}
    for name, node in nodes.items():
        finish(run / name, node, {} if name in ("vocoder", "auditor") else fingerprint)
    folder = run / "text_tokenizer"
    folder.mkdir()
    train_tokenizer(["one two three", "transcribe: answer:"] * 5, vocab_size=300).save(str(folder / "tokenizer.json"))
    (folder / "stage.json").write_text(json.dumps({"status": "done"}))
    (run / "pipeline.yaml").write_text(yaml.safe_dump({"name": "tiny", "run_dir": str(run), "system": SYSTEM}))
    return run
