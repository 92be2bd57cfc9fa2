"""Text language models: any Hugging Face causal LM, from its configuration."""

import difflib
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def causal_lm(config: Mapping[str, Any], tokenizer_size: int | None = None) -> PreTrainedModel:
    """A causal LM with random weights in fp32, with sdpa attention and without a key-value cache.

    The cache is off because with it transformers ignores restarting positions, and packed documents would see each other.

    Args:
        config: Hugging Face configuration, e.g. `{"model_type": "qwen2", "hidden_size": 192, ...}`.
        tokenizer_size: number of ids of the tokenizer; becomes `vocab_size` where the configuration gives none.

    Raises:
        ValueError: without a `model_type` that is a causal LM, or if `vocab_size` is smaller than the tokenizer.
    """
    options = dict(config)
    model_type = options.pop("model_type", None)
    if model_type is None:
        raise ValueError("causal_lm: the configuration has no model_type; name one, e.g. model_type: qwen2")
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        near = difflib.get_close_matches(str(model_type), MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=1)
        raise ValueError(
            f"causal_lm: model_type is {model_type!r}, which is no causal LM of transformers {transformers.__version__}; "
            + (f"did you mean {near[0]!r}?" if near else "name one, e.g. qwen2")
        )
    if tokenizer_size is not None and options.setdefault("vocab_size", tokenizer_size) < tokenizer_size:
        raise ValueError(
            f"causal_lm: vocab_size is {options['vocab_size']}, but the tokenizer has {tokenizer_size} ids; "
            "raise vocab_size or leave it out"
        )
    options.setdefault("use_cache", False)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **options), attn_implementation="sdpa", dtype=torch.float32
    )
