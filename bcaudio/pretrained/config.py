"""The released config.json <-> the model nodes of our recipes. All sizes come from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import AutoConfig

from bcaudio.pretrained.names import LLM_CONFIG_KEYS, llm_config_from_released
from bcaudio.pretrained.nodes import Node, complete, difference, merge

# our own additions, below one key that the published code ignores
EXTRAS = "bcaudio"
# entry of audio_config -> token; ids are always those of the tokenizer
TOKEN_IDS: Mapping[str, str] = {
    f"{kind}_token_id": f"<{kind}_baichuan>"
    for kind in (
        *("audio_start", "audio_end", "audio_pad", "audio_delim"),
        *("audiotext_start", "audiotext_end", "audiotext_pad", "audiogen_start", "audiogen_end"),
    )
}
# settings of the published code that change what is computed, and the only value we compute with
FIXED: Mapping[str, Any] = {
    "attention_qkv_bias": True,
    "use_norm_head": False,
    "use_sliding_window": False,
    "sparse_attention_layers": [],
    "position_embedding_type": "rope",
    "audio_config.activation_function": "gelu",
    "audio_config.vq_config.enable": True,
    "flow_matching_config.use_hires_mel": True,
    "flow_matching_config.use_hidden_states_before_dconv2": True,
    "flow_matching_config.prenet_activation_function": "gelu",
    "flow_matching_config.prenet_target_mel_length_scale_ratio": 1.0,
    "flow_matching_config.spk_emb_dim": 0,
    "flow_matching_config.unet_use_omni_attn": False,
    "flow_matching_config.act_fn": "gelu",
    "flow_matching_config.cfm_params.solver": "euler",
    "flow_matching_config.cfm_params.t_scheduler": "cosine",
}


class Section:
    """A mapping of a configuration file that says where a key is missing."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = values, where

    def __getitem__(self, key: str) -> Any:
        node: Any = self.values
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                raise ValueError(f"{self.where}: {key} is missing; take the config.json that belongs to the weights")
            node = node[part]
        return node

    def get(self, key: str) -> Any:
        """The value, or None where any part of the path is absent."""
        try:
            return self[key]
        except ValueError:
            return None


def models_of_config(config: Mapping[str, Any], audio_pad_id: int, where: str) -> dict[str, Node]:
    """Model nodes `tokenizer`, `audio_llm` and `flow` of a released configuration.

    Args:
        config: config.json.
        audio_pad_id: from the tokenizer, by name.
        where: the file, for messages.

    Raises:
        ValueError: a missing key, or a setting that we do not compute.
    """
    c = Section(config, where)
    for key, only in FIXED.items():
        value = c.get(key)
        if value not in (None, only):
            raise ValueError(f"{where}: {key} is {value!r}, but only {only!r} is supported; this is another model")
    try:
        llm = llm_config_from_released(config)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    head_dim = c.get("head_dim")
    if head_dim and head_dim * llm["num_attention_heads"] != llm["hidden_size"]:
        llm["head_dim"] = head_dim
    try:
        models = {"tokenizer": _tokenizer(c), "audio_llm": _audio_llm(c, llm, audio_pad_id), "flow": _flow(c)}
    except (TypeError, ZeroDivisionError) as error:
        raise ValueError(
            f"{where}: a size has no useful value ({error}); take the config.json that belongs to the weights"
        ) from None
    extras = config.get(EXTRAS) or {}
    return {part: merge(node, extras.get(part) or {}, f"{where}: {EXTRAS}.{part}") for part, node in models.items()}


def _tokenizer(c: Section) -> Node:
    seconds, rate = c["audio_config.max_audio_seconds"], c["audio_config.sampling_rate"]
    frame_rate = rate / c["audio_config.hop_length"]
    dim, pooling, mels = c["audio_config.d_model"], c["audio_config.avg_pooler"], c["audio_config.num_mel_bins"]
    return {
        "_target_": "bcaudio.models.audio_tokenizer.AudioTokenizer",
        "frontend": {
            "_target_": "bcaudio.audio.mel.WhisperLogMel",
            "n_mels": mels,
            "sample_rate": rate,
            "n_fft": c["audio_config.n_fft"],
            "hop_length": c["audio_config.hop_length"],
            "max_audio_s": seconds,
        },
        "encoder": {
            "_target_": "bcaudio.nn.whisper_encoder.WhisperEncoder",
            "num_mels": mels,
            "dim": dim,
            "num_layers": c["audio_config.encoder_layers"],
            "num_heads": c["audio_config.encoder_attention_heads"],
            "ffn_dim": c["audio_config.encoder_ffn_dim"],
            "kernel_size": c["audio_config.kernel_size"],
            "stride": c["audio_config.stride_size"],
            "max_positions": int(seconds * frame_rate) // c["audio_config.stride_size"],
        },
        "bridge": {
            "_target_": "bcaudio.models.audio_tokenizer.VQBridge",
            "dim": dim,
            "pooling": pooling,
            "quantizer": {
                "_target_": "bcaudio.nn.residual_vq.ResidualVQ",
                "codebook_sizes": list(c["audio_config.vq_config.codebook_sizes"]),
                "dim": dim * pooling,
            },
        },
        "decoder": {
            "_target_": "bcaudio.models.audio_tokenizer.AudioDecoder",
            "dim": dim,
            "num_layers": c["audio_config.decoder_layers"],
            "num_heads": c["audio_config.decoder_attention_heads"],
            "ffn_dim": c["audio_config.decoder_ffn_dim"],
            "pooling": pooling,
            "kernel_size": c["audio_config.decoder_kernel_size"],
            "stride": c["audio_config.decoder_stride_size"],
            "num_mels": c["vocoder_config.num_mel_bins"],
            "refiner_channels": list(c["vocoder_config.channels"])[:-1],
            "frame_rate": frame_rate,
            "mel_frame_rate": c["vocoder_config.sampling_rate"] / c["vocoder_config.hop_length"],
            "max_positions": int(seconds * frame_rate),
        },
    }


def _audio_llm(c: Section, llm: Node, audio_pad_id: int) -> Node:
    sizes = list(c["audio_config.vq_config.codebook_sizes"])
    return {
        "_target_": "bcaudio.models.audio_llm.AudioLLM",
        "llm": {"_target_": "bcaudio.models.text_llm.causal_lm", "config": llm},
        "codebook_sizes": sizes,
        "audio_pad_id": audio_pad_id,
        "head": {
            "_target_": "bcaudio.nn.depth_transformer.DepthTransformer",
            "dim": c["hidden_size"],
            "codebook_sizes": sizes,
            "num_layers": c["audio_config.audio_head_transformer_layers"],
        },
    }


def _flow(c: Section) -> Node:
    f = Section(c["flow_matching_config"], f"{c.where}: flow_matching_config")
    return {
        "_target_": "bcaudio.models.flow_decoder.FlowDecoder",
        "prenet": {
            "_target_": "bcaudio.models.flow_decoder.FlowPrenet",
            "in_dim": f["prenet_in_dim"],
            "d_model": f["prenet_d_model"],
            "num_heads": f["prenet_attention_heads"],
            "ffn_dim": f["prenet_ffn_dim"],
            "num_layers": f["prenet_nlayers"],
            "mel_bins": f["prenet_out_dim"],
            "max_source_positions": f["prenet_max_source_positions"],
        },
        "estimator": {
            "_target_": "bcaudio.nn.unet1d.VelocityUNet",
            "mel_bins": f["in_channels"],
            "channels": list(f["channels"]),
            "n_blocks": f["n_blocks"],
            "num_mid_blocks": f["num_mid_blocks"],
            "num_heads": f["num_heads"],
            "attention_head_dim": f["attention_head_dim"],
            "dropout": f["dropout"],
        },
        "sigma_min": f["cfm_params.sigma_min"],
        "training_cfg_rate": f["cfm_params.training_cfg_rate"],
        "inference_cfg_rate": f["cfm_params.inference_cfg_rate"],
        "diffusion_steps": f["diffusion_steps"],
    }


def config_of_models(
    models: Mapping[str, Node], token_to_id: Callable[[str], int | None], dtype: str, vocab_size: int
) -> dict[str, Any]:
    """A released config.json for our models; what its schema lacks goes below the key `bcaudio`.

    Args:
        models: nodes `tokenizer`, `audio_llm` and `flow`.
        token_to_id: of the text tokenizer.
        dtype: of the weights, e.g. `bfloat16`.
        vocab_size: rows of the text embedding.

    Raises:
        ValueError: a model that the released layout cannot describe.
    """
    full = {part: complete(node) for part, node in models.items()}
    tokenizer, llm, flow = full["tokenizer"], full["audio_llm"], full["flow"]
    if not llm.get("head"):
        raise ValueError("audio_llm.head: the released layout needs an audio head; use --format bcaudio or huggingface")
    config = {
        "architectures": ["OmniForCausalLM"],
        "model_type": "omni",
        "auto_map": {"AutoConfig": "configuration_omni.OmniConfig", "AutoModelForCausalLM": "modeling_omni.OmniForCausalLM"},
        **_llm_entries(llm["llm"]["config"], vocab_size),
        "attention_qkv_pack": True,
        "attention_qkv_bias": True,
        "position_embedding_type": "rope",
        "use_norm_head": False,
        "use_sliding_window": False,
        "sparse_attention_layers": [],
        "use_cache": False,
        "torch_dtype": dtype,
        "pad_token_id": 0,
        "multimodal": ["audio", "audiogen"],
        "train_multimodal_special_tokens_only": False,
        "audio_config": {
            "enable": True,
            **_audio_entries(tokenizer),
            "audio_head_transformer_layers": llm["head"]["num_layers"],
            **{key: token_to_id(name) for key, name in TOKEN_IDS.items() if token_to_id(name) is not None},
        },
        "vocoder_config": _auxiliary_mel_entries(tokenizer),
        "flow_matching_config": _flow_entries(flow, tokenizer),
        "visual_config": {"enable": False},
        "video_config": {"enable": False},
    }
    base = models_of_config(config, llm["audio_pad_id"], "the generated config.json")
    extras = {part: difference(node, complete(base[part]), part) for part, node in full.items() if part in base}
    if extras := {part: extra for part, extra in extras.items() if extra}:
        config[EXTRAS] = extras
    return config


def _llm_entries(options: Mapping[str, Any], vocab_size: int) -> dict[str, Any]:
    options = {**options, "vocab_size": vocab_size}
    model_type = options.pop("model_type")
    if model_type != "qwen2":
        raise ValueError(
            f"audio_llm.llm: the released layout holds a qwen2 language model, not {model_type}; use --format huggingface"
        )
    hf = AutoConfig.for_model(model_type, **options)
    rope = hf.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise ValueError(f"audio_llm.llm: the released layout has no rope_type {rope['rope_type']}; use --format huggingface")
    values = {key: rope["rope_theta"] if key == "rope_theta" else getattr(hf, key) for key in LLM_CONFIG_KEYS}
    head_dim = getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads
    return {**values, "head_dim": head_dim, "initializer_range": hf.initializer_range}


def _audio_entries(tokenizer: Node) -> dict[str, Any]:
    front, encoder, decoder = tokenizer["frontend"], tokenizer["encoder"], tokenizer["decoder"]
    return {
        "d_model": encoder["dim"],
        "encoder_layers": encoder["num_layers"],
        "encoder_attention_heads": encoder["num_heads"],
        "encoder_ffn_dim": encoder["ffn_dim"],
        "decoder_layers": decoder["num_layers"],
        "decoder_attention_heads": decoder["num_heads"],
        "decoder_ffn_dim": decoder["ffn_dim"],
        "kernel_size": encoder["kernel_size"],
        "stride_size": encoder["stride"],
        "avg_pooler": tokenizer["bridge"]["pooling"],
        "decoder_kernel_size": decoder["kernel_size"],
        "decoder_stride_size": decoder["stride"],
        "num_mel_bins": front["n_mels"],
        "n_fft": front["n_fft"],
        "hop_length": front["hop_length"],
        "sampling_rate": front["sample_rate"],
        "max_audio_seconds": front["max_audio_s"],
        "split_overlap": 0.0,
        "vq_config": {"enable": True, "codebook_sizes": tokenizer["bridge"]["quantizer"]["codebook_sizes"]},
    }


def _auxiliary_mel_entries(tokenizer: Node) -> dict[str, Any]:
    front, decoder = tokenizer["frontend"], tokenizer["decoder"]
    channels = list(decoder["refiner_channels"])
    return {
        "enable": True,
        "enable_multi_scale": True,
        "max_audio_seconds": front["max_audio_s"],
        "sampling_rate": front["sample_rate"],
        "hop_length": round(front["sample_rate"] / decoder["mel_frame_rate"]),
        "split_overlap": 0.0,
        "n_fft": 1024,
        "num_mel_bins": decoder["num_mels"],
        "channels": [*channels, *channels[-1:]],  # the published code never reads the last
    }


def _flow_entries(flow: Node, tokenizer: Node) -> dict[str, Any]:
    prenet, unet = flow["prenet"], flow["estimator"]
    return {
        "enable": True,
        "use_hires_mel": True,
        "sampling_rate": 24000,
        "hop_length": 480,
        "max_audio_seconds": tokenizer["frontend"]["max_audio_s"],
        "split_overlap": 0.1,
        "use_hidden_states_before_dconv2": True,
        "prenet_in_dim": prenet["in_dim"],
        "prenet_out_dim": prenet["mel_bins"],
        "prenet_d_model": prenet["d_model"],
        "prenet_attention_heads": prenet["num_heads"],
        "prenet_ffn_dim": prenet["ffn_dim"],
        "prenet_nlayers": prenet["num_layers"],
        "prenet_activation_function": "gelu",
        "prenet_max_source_positions": prenet["max_source_positions"],
        "prenet_target_mel_length_scale_ratio": 1.0,
        "prenet_loss_weight": 1.0,
        "loss_weight": 1.0,
        "unet_use_omni_attn": False,
        "in_channels": unet["mel_bins"],
        "spk_emb_dim": 0,
        "diffusion_steps": flow["diffusion_steps"],
        "channels": unet["channels"],
        "dropout": unet["dropout"],
        "attention_head_dim": unet["attention_head_dim"],
        "n_blocks": unet["n_blocks"],
        "num_mid_blocks": unet["num_mid_blocks"],
        "num_heads": unet["num_heads"],
        "act_fn": "gelu",
        "cal_mel_mae": True,
        "cfm_params": {
            "sigma_min": flow["sigma_min"],
            "solver": "euler",
            "t_scheduler": "cosine",
            "training_cfg_rate": flow["training_cfg_rate"],
            "inference_cfg_rate": flow["inference_cfg_rate"],
            "reg_loss_type": "l1",
        },
    }
