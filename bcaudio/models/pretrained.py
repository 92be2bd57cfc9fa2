"""Parameter names of the released checkpoint <-> ours, for the language model, the audio embedding and the audio head."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_PACKED = re.compile(r"(.*\.self_attn\.)W_pack\.(weight|bias)")
_PROJECTION = re.compile(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)")
# released prefix -> ours; the first that fits counts
_PREFIXES = (
    ("model.audio_embed_layers.", "audio_embedding.tables."),
    ("audio_head.", "audio_head."),
    ("lm_head.", "llm.lm_head."),
    ("model.layers.", "llm.model.layers."),
    ("model.norm.", "llm.model.norm."),
    ("model.embed_tokens.", "llm.model.embed_tokens."),
)


# entries of the released configuration that mean the same for a Hugging Face Qwen2
_CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "max_position_embeddings",
    "tie_word_embeddings",
)


def llm_config_from_released(config: Mapping[str, Any]) -> dict[str, Any]:
    """Hugging Face Qwen2 configuration (for `text_llm.causal_lm`) from a released config.json.

    Raises:
        ValueError: naming the keys that are missing.
    """
    missing = [key for key in _CONFIG_KEYS if key not in config]
    if missing:
        raise ValueError(f"released configuration: {', '.join(missing)} missing; give the config.json beside the checkpoint")
    return {"model_type": "qwen2"} | {key: config[key] for key in _CONFIG_KEYS}


def unpack_qkv(state: Mapping[str, Tensor], num_heads: int, num_kv_heads: int) -> dict[str, Tensor]:
    """Split `self_attn.W_pack` rows [q: num_heads | k: num_kv_heads | v: num_kv_heads, times head_dim] into q, k, v projections.

    Raises:
        ValueError: if the rows do not divide into that many heads.
    """
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _PACKED.fullmatch(name)
        if match is None:
            result[name] = tensor
            continue
        head_dim, rest = divmod(tensor.shape[0], num_heads + 2 * num_kv_heads)
        if rest:
            raise ValueError(
                f"{name}: {tensor.shape[0]} rows do not divide into {num_heads} query and 2 x {num_kv_heads} other heads; "
                "check num_attention_heads and num_key_value_heads of the configuration"
            )
        parts = tensor.split([num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim])
        for letter, part in zip("qkv", parts, strict=True):
            result[f"{match[1]}{letter}_proj.{match[2]}"] = part.clone()
    return result


def pack_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Join q, k, v projections into `self_attn.W_pack`: the inverse of `unpack_qkv`."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = _PROJECTION.fullmatch(name)
        if match is None:
            result[name] = tensor
        elif match[2] == "q":
            others = (state[f"{match[1]}{letter}_proj.{match[3]}"] for letter in "kv")
            result[f"{match[1]}W_pack.{match[3]}"] = torch.cat([tensor, *others])
    return result


def llm_from_released(state: Mapping[str, Tensor], num_heads: int, num_kv_heads: int) -> dict[str, Tensor]:
    """State dict of `AudioLLM` from released names; parts that are not of the language model are left out."""
    ours: dict[str, Tensor] = {}
    for name, tensor in unpack_qkv(state, num_heads, num_kv_heads).items():
        for theirs, prefix in _PREFIXES:
            if name.startswith(theirs):
                ours[prefix + name.removeprefix(theirs)] = tensor
                break
    return ours


def llm_to_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Released names from a state dict of `AudioLLM`: the inverse of `llm_from_released`.

    Raises:
        ValueError: for a parameter the released layout has no name for (another backbone than Qwen2's).
    """
    released: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for theirs, prefix in _PREFIXES:
            if name.startswith(prefix):
                released[theirs + name.removeprefix(prefix)] = tensor
                break
        else:
            raise ValueError(f"{name} has no name in the released layout; only Qwen2-like language models can be exported to it")
    return pack_qkv(released)
