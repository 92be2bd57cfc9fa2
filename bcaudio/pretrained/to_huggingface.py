"""The text LLM and the Whisper encoder as folders that transformers loads."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, WhisperConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bcaudio.pretrained.names import whisper_to_huggingface
from bcaudio.pretrained.nodes import Node, complete
from bcaudio.pretrained.sources import TOKENIZER
from bcaudio.pretrained.stages import StageFiles
from bcaudio.pretrained.tensor_files import DTYPES, Advance, StoredTensor, write_shards
from bcaudio.pretrained.text_tokenizers import copy_tokenizer


def write_huggingface(
    stage: StageFiles, out: Path, text_tokenizer: Path | None, shard_bytes: int, advance: Advance, where: str
) -> dict[str, StoredTensor]:
    """Write what transformers has a class for: the language model, or the encoder of an audio tokenizer.

    Args:
        stage: an audio LLM, a text LLM, an audio tokenizer or its encoder.
        out: existing, empty folder.
        text_tokenizer: stage folder whose files go beside a language model.
        shard_bytes, advance: see `write_shards`.
        where: the stage, for messages.

    Returns:
        the tensors under their new names.

    Raises:
        ValueError: transformers has no class for this stage, or none with these sizes.
    """
    node, target = stage.model, stage.model.get("_target_")
    if target == "bcaudio.models.audio_llm.AudioLLM":
        return _llm(node["llm"], _below("llm.", stage), out, text_tokenizer, shard_bytes, advance)
    if target == "bcaudio.models.text_llm.causal_lm":
        return _llm(node, dict(stage.tensors), out, text_tokenizer, shard_bytes, advance)
    if target == "bcaudio.models.audio_tokenizer.AudioTokenizer":
        return _whisper(node["encoder"], _below("encoder.", stage), out, shard_bytes, advance, where)
    if target == "bcaudio.nn.whisper_encoder.WhisperEncoder":
        return _whisper(node, dict(stage.tensors), out, shard_bytes, advance, where)
    raise ValueError(f"{where}: holds a {target}, which transformers has no class for; use --format bcaudio")


def _llm(
    node: Node, tensors: dict[str, StoredTensor], out: Path, text_tokenizer: Path | None, shard_bytes: int, advance: Advance
) -> dict[str, StoredTensor]:
    options = dict(node["config"])
    model_type = options.pop("model_type")
    options.setdefault("vocab_size", tensors["model.embed_tokens.weight"].shape[0])
    config = AutoConfig.for_model(model_type, **options)
    if config.tie_word_embeddings:  # transformers stores tied weights once
        tensors.pop("lm_head.weight", None)
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    config.dtype = _dtype(tensors["model.embed_tokens.weight"])
    config.save_pretrained(out)
    write_shards(out, tensors, shard_bytes, advance, always_index=False)
    if text_tokenizer is not None and (text_tokenizer / TOKENIZER).is_file():
        copy_tokenizer(text_tokenizer, out)
    return tensors


def _whisper(
    node: Node, tensors: dict[str, StoredTensor], out: Path, shard_bytes: int, advance: Advance, where: str
) -> dict[str, StoredTensor]:
    sizes = complete(node)
    if (sizes["kernel_size"], sizes["stride"]) != (3, 2):
        raise ValueError(
            f"{where}: the encoder has kernel_size {sizes['kernel_size']} and stride {sizes['stride']}, but transformers' "
            "Whisper has 3 and 2; use --format bcaudio"
        )
    config = WhisperConfig(
        num_mel_bins=sizes["num_mels"],
        d_model=sizes["dim"],
        encoder_layers=sizes["num_layers"],
        encoder_attention_heads=sizes["num_heads"],
        encoder_ffn_dim=sizes["ffn_dim"],
        max_source_positions=sizes["max_positions"],
        # there is no text decoder: the least that the class can be built with
        **{"decoder_layers": 0, "decoder_attention_heads": 1, "decoder_ffn_dim": 1, "max_target_positions": 1, "vocab_size": 1},
        **{"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0},
        **{"suppress_tokens": None, "begin_suppress_tokens": None},
    )
    config.architectures = ["WhisperModel"]
    config.dtype = _dtype(tensors["conv1.weight"])
    config.save_pretrained(out)
    renamed = whisper_to_huggingface(tensors)
    write_shards(out, renamed, shard_bytes, advance, always_index=False)
    return renamed


def _below(prefix: str, stage: StageFiles) -> dict[str, StoredTensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in stage.tensors.items() if name.startswith(prefix)}


def _dtype(tensor: StoredTensor) -> str:
    return DTYPES[tensor.dtype][0].removeprefix("torch.")
