"""Parameter names of published checkpoints <-> ours: the one table that import, export and the parity tests use.

The functions rename; what the names stand for may be tensors or descriptions of tensors in a file (`StoredTensor`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor


class Shaped(Protocol):
    """Anything with a shape."""

    @property
    def shape(self) -> Sequence[int]:
        """Sizes of all axes."""


T = TypeVar("T", bound=Shaped)
Cut = Callable[[T, int, int], T]
Join = Callable[[Sequence[T]], T]

# part of the system -> (released prefix, ours); the first that fits counts
PREFIXES: Mapping[str, tuple[tuple[str, str], ...]] = {
    "audio_llm": (
        ("model.embed_tokens.", "llm.model.embed_tokens."),
        ("model.layers.", "llm.model.layers."),
        ("model.norm.", "llm.model.norm."),
        ("model.audio_embed_layers.", "audio_embedding.tables."),
        ("audio_head.", "audio_head."),
        ("lm_head.", "llm.lm_head."),
    ),
    "tokenizer": (
        ("audio_tokenizer.audio_model.", "encoder."),
        ("audio_tokenizer.audio_bridge_model.", "bridge."),
        ("audio_tokenizer.audio_decoder.", "decoder."),
    ),
    "flow": (("audio_tokenizer.audio_flow_matching_decoder.", ""),),
}
# the order of a released state dict, which is how its shards are cut
RELEASED_ORDER = (
    "model.embed_tokens.",
    "model.layers.",
    "model.norm.",
    "model.audio_embed_layers.",
    "audio_tokenizer.audio_model.",
    "audio_tokenizer.audio_bridge_model.",
    "audio_tokenizer.audio_decoder.",
    "audio_tokenizer.audio_flow_matching_decoder.",
    "audio_head.",
    "lm_head.",
)
# of Omni models; the audio model has no place for them
VISUAL_PREFIXES = ("model.visual_model.", "model.visual_bridge_model.")
WHISPER_ENCODER_PREFIXES = ("model.encoder.", "encoder.")
WHISPER_OTHER_PREFIXES = ("model.decoder.", "decoder.", "proj_out.")

_PACKED = re.compile(r"(.*\.self_attn\.)W_pack\.(weight|bias)")
_PROJECTION = re.compile(r"(.*\.self_attn\.)([qkv])_proj\.(weight|bias)")

# entries of the released configuration that mean the same for a Hugging Face Qwen2
LLM_CONFIG_KEYS = (
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
    missing = [key for key in LLM_CONFIG_KEYS if key not in config]
    if missing:
        raise ValueError(f"released configuration: {', '.join(missing)} missing; give the config.json beside the checkpoint")
    return {"model_type": "qwen2"} | {key: config[key] for key in LLM_CONFIG_KEYS}


def cut_rows(tensor: Tensor, first: int, last: int) -> Tensor:
    """Rows first..last-1, as a tensor of its own."""
    return tensor[first:last].clone()


def unpack_qkv(state: Mapping[str, T], num_heads: int, num_kv_heads: int, cut: Cut = cut_rows) -> dict[str, T]:
    """Split `self_attn.W_pack` rows [q: num_heads | k: num_kv_heads | v: num_kv_heads, times head_dim] into q, k, v projections.

    Raises:
        ValueError: if the rows do not divide into that many heads.
    """
    result: dict[str, T] = {}
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
        first = 0
        for letter, heads in zip("qkv", (num_heads, num_kv_heads, num_kv_heads), strict=True):
            result[f"{match[1]}{letter}_proj.{match[2]}"] = cut(tensor, first, first + heads * head_dim)
            first += heads * head_dim
    return result


def pack_qkv(state: Mapping[str, T], join: Join = torch.cat) -> dict[str, T]:
    """Join q, k, v projections into `self_attn.W_pack`: the inverse of `unpack_qkv`."""
    result: dict[str, T] = {}
    for name, tensor in state.items():
        match = _PROJECTION.fullmatch(name)
        if match is None:
            result[name] = tensor
        elif match[2] == "q":
            others = (state[f"{match[1]}{letter}_proj.{match[3]}"] for letter in "kv")
            result[f"{match[1]}W_pack.{match[3]}"] = join([tensor, *others])
    return result


def from_released(part: str, state: Mapping[str, T]) -> dict[str, T]:
    """Our names for the tensors of one part (a key of PREFIXES); tensors of other parts are left out."""
    ours: dict[str, T] = {}
    for name, tensor in state.items():
        for theirs, prefix in PREFIXES[part]:
            if name.startswith(theirs):
                ours[prefix + name.removeprefix(theirs)] = tensor
                break
    return ours


def to_released(part: str, state: Mapping[str, T]) -> dict[str, T]:
    """Released names for the tensors of one part: the inverse of `from_released`.

    Raises:
        ValueError: for a parameter the released layout has no name for (another backbone than Qwen2's).
    """
    released: dict[str, T] = {}
    for name, tensor in state.items():
        for theirs, prefix in PREFIXES[part]:
            if name.startswith(prefix):
                released[theirs + name.removeprefix(prefix)] = tensor
                break
        else:
            raise ValueError(f"{name} has no name in the released layout; only Qwen2-like language models can be exported to it")
    return released


def llm_from_released(state: Mapping[str, T], num_heads: int, num_kv_heads: int, cut: Cut = cut_rows) -> dict[str, T]:
    """State dict of `AudioLLM` from released names; parts that are not of the language model are left out."""
    return from_released("audio_llm", unpack_qkv(state, num_heads, num_kv_heads, cut))


def llm_to_released(state: Mapping[str, T], join: Join = torch.cat, packed: bool = True) -> dict[str, T]:
    """Released names from a state dict of `AudioLLM`: the inverse of `llm_from_released`.

    Args:
        state: ours.
        join: makes one tensor of several, along the rows.
        packed: the configuration's `attention_qkv_pack`; without it q, k and v keep names of their own.
    """
    released = to_released("audio_llm", state)
    return pack_qkv(released, join) if packed else released


def released_order(names: Iterable[str]) -> list[str]:
    """Names by part, in the released order of parts; inside a part they keep their order."""
    rank = {prefix: i for i, prefix in enumerate(RELEASED_ORDER)}
    return sorted(names, key=lambda name: next(i for prefix, i in rank.items() if name.startswith(prefix)))


def is_ours_only(name: str) -> bool:
    """Whether a tensor of ours is training state that no published layout holds (idle counters of the codebooks)."""
    return name.endswith(".codebook.idle_steps")


def whisper_from_huggingface(state: Mapping[str, T]) -> dict[str, T]:
    """State dict of `WhisperEncoder` from a Hugging Face Whisper checkpoint; the decoder is left out.

    Names of neither encoder nor decoder stay as they are, for the report of keys.
    """
    ours: dict[str, T] = {}
    for name, tensor in state.items():
        if name.startswith(WHISPER_OTHER_PREFIXES):
            continue
        prefix = next((prefix for prefix in WHISPER_ENCODER_PREFIXES if name.startswith(prefix)), "")
        ours[name.removeprefix(prefix).replace("embed_positions.weight", "positional_embedding")] = tensor
    return ours


def whisper_to_huggingface(state: Mapping[str, T]) -> dict[str, T]:
    """Names of transformers' `WhisperModel` for the encoder: the inverse of `whisper_from_huggingface`."""
    return {f"encoder.{name.replace('positional_embedding', 'embed_positions.weight')}": tensor for name, tensor in state.items()}


def hift_from_released(state: Mapping[str, T]) -> dict[str, T]:
    """State dict of `Vocoder` from hift.pt: without a `generator.` prefix, weight norm under its old or its new names."""
    renamed = {}
    for name, tensor in state.items():
        name = name.removeprefix("generator.")
        name = name.replace(".parametrizations.weight.original0", ".weight_g")
        renamed[name.replace(".parametrizations.weight.original1", ".weight_v")] = tensor
    return renamed
