"""`bcaudio import`: published weights -> stage folders, byte for byte, with memory for one piece of a tensor."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import Tokenizer

from bcaudio.pretrained.config import EXTRAS, TOKEN_IDS, Section, models_of_config
from bcaudio.pretrained.key_report import check_keys
from bcaudio.pretrained.names import (
    VISUAL_PREFIXES,
    WHISPER_OTHER_PREFIXES,
    from_released,
    hift_from_released,
    is_ours_only,
    llm_from_released,
    llm_to_released,
    to_released,
    whisper_from_huggingface,
)
from bcaudio.pretrained.nodes import merge, meta_model
from bcaudio.pretrained.sources import (
    CONFIG,
    HIFT,
    KINDS,
    TOKENIZER,
    kind_of,
    read_hift,
    read_json_file,
    read_tensors,
)
from bcaudio.pretrained.stages import FOLDERS, PIPELINE, StageFiles, write_stage
from bcaudio.pretrained.target import byte_progress, new_folder, print_summary, warn
from bcaudio.pretrained.tensor_files import StoredTensor, read_tensor_file
from bcaudio.pretrained.text_tokenizers import write_text_tokenizer
from bcaudio.pretrained.vocoder_sizes import vocoder_of_shapes
from bcaudio.recipe.load import dump_recipe
from bcaudio.text.tokenizer import TextTokenizer

# kept beside the stages, so that export gives them back as they were
RELEASED_CONFIG, GENERATION_CONFIG = "released_config.json", "generation_config.json"
# tensors of ours that the published layout has no names for
OURS = "bcaudio.safetensors"
HIFT_COPY = ".hift.safetensors"
# of a Hugging Face config.json: how it was saved, not what the model is
NOT_OF_THE_MODEL = ("_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version")


def import_pretrained(source: str | Path, target: str | Path, kind: str = "auto") -> None:
    """Turn a published checkpoint into stage folders below `target`, which appears whole or not at all.

    Args:
        source: a Baichuan-Audio, Whisper or causal LM folder, a hift.pt, or a folder with one.
        target: new folder; below it `text_tokenizer`, `tokenizer`, `audio_llm`, `flow`, `vocoder` and a `pipeline.yaml`
            (Baichuan-Audio), or `encoder` (Whisper), `text_llm` and `text_tokenizer` (LM), `vocoder` (HiFT).
        kind: one of KINDS, or "auto".

    Raises:
        FileNotFoundError, ValueError: one line with what is wrong, where, and the remedy.
    """
    started = time.monotonic()
    source, target = Path(source), Path(target)
    if kind != "hift":
        found = kind_of(source)
        if kind not in ("auto", found):
            raise ValueError(f"{source}: is of kind {found}, not {kind}; leave --kind out")
        kind = found
    with new_folder(target) as folder:
        stages = PLANS[kind](source, folder)
        origin = {"source": str(source), "kind": kind}
        with byte_progress("import", folder, sum(stage.num_bytes for stage in stages)) as advance:
            for stage in stages:
                write_stage(folder, stage, origin, advance)
        (folder / HIFT_COPY).unlink(missing_ok=True)
    print_summary("imported", target, (tensor for stage in stages for tensor in stage.tensors.values()), started)


def _baichuan(source: Path, folder: Path) -> list[StageFiles]:
    where = str(source / CONFIG)
    config = read_json_file(source / CONFIG)
    special_id = _checked_token_ids(source, config, where)
    models = models_of_config(config, special_id, where)
    found = read_tensors(source)
    if visual := [name for name in found if name.startswith(VISUAL_PREFIXES)]:
        warn(f"{source}: {len(visual)} tensors of the visual model are left out; the audio model has no place for them")
        found = {name: tensor for name, tensor in found.items() if name not in set(visual)}
    extra = read_tensor_file(source / OURS) if (source / OURS).is_file() else {}

    packed = bool(config.get("attention_qkv_pack", True))
    expected: dict[str, Any] = {}
    for part, node in models.items():
        state = meta_model(node, f"{where}: {part}").state_dict()
        expected |= {f"{part}.{name}": tensor for name, tensor in state.items() if is_ours_only(name)}
        state = {name: tensor for name, tensor in state.items() if not is_ours_only(name)}
        expected |= llm_to_released(state, packed=packed) if part == "audio_llm" else to_released(part, state)
    check_keys({**found, **extra}, expected, str(source))

    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    tensors = {
        "tokenizer": from_released("tokenizer", found),
        "audio_llm": llm_from_released(found, heads, kv_heads, StoredTensor.rows),
        "flow": from_released("flow", found),
    }
    sizes = models["audio_llm"]["codebook_sizes"]
    fingerprints: dict[str, dict[str, Any]] = {part: {"codebook_sizes": sizes} for part in models}
    fingerprints["tokenizer"]["code_rate_hz"] = _code_rate(models["tokenizer"])
    stages = [
        StageFiles(part, models[part], {**tensors[part], **_below(f"{part}.", extra)}, fingerprints[part]) for part in models
    ]
    if (source / HIFT).is_file():
        stages += _hift(source, folder, (config.get(EXTRAS) or {}).get("vocoder") or {})
    write_text_tokenizer(source, folder)
    shutil.copyfile(source / CONFIG, folder / RELEASED_CONFIG)
    if (source / GENERATION_CONFIG).is_file():
        shutil.copyfile(source / GENERATION_CONFIG, folder / GENERATION_CONFIG)
    names = {"text_tokenizer", *(stage.name for stage in stages)}
    system = {role: name for role, name in FOLDERS.items() if name in names}
    (folder / PIPELINE).write_text(dump_recipe({"name": source.resolve().name, "system": system}), encoding="utf-8")
    return stages


def _whisper(source: Path, folder: Path) -> list[StageFiles]:
    config = Section(read_json_file(source / CONFIG), str(source / CONFIG))
    for key, only in (("activation_function", "gelu"), ("scale_embedding", False)):
        if config.get(key) not in (None, only):
            raise ValueError(f"{config.where}: {key} is {config[key]!r}, but only {only!r} is supported; take another Whisper")
    node = {
        "_target_": "bcaudio.nn.whisper_encoder.WhisperEncoder",
        "num_mels": config["num_mel_bins"],
        "dim": config["d_model"],
        "num_layers": config["encoder_layers"],
        "num_heads": config["encoder_attention_heads"],
        "ffn_dim": config["encoder_ffn_dim"],
        "max_positions": config["max_source_positions"],
    }
    found = read_tensors(source)
    left_out = sum(name.startswith(WHISPER_OTHER_PREFIXES) for name in found)
    tensors = whisper_from_huggingface(found)
    check_keys(tensors, meta_model(node, config.where).state_dict(), str(source))
    if left_out:
        warn(f"{source}: {left_out} tensors of the decoder are left out; only the encoder is imported")
    return [StageFiles("encoder", node, tensors, {})]


def _llm(source: Path, folder: Path) -> list[StageFiles]:
    config = {key: value for key, value in read_json_file(source / CONFIG).items() if key not in NOT_OF_THE_MODEL}
    node = {"_target_": "bcaudio.models.text_llm.causal_lm", "config": config}
    model = meta_model(node, str(source / CONFIG))
    expected = model.state_dict()
    # positions that old checkpoints keep and every transformers computes anew
    tensors = {name: tensor for name, tensor in read_tensors(source).items() if not name.endswith(".rotary_emb.inv_freq")}
    by_identity: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), []).append(name)
    for names in by_identity.values():  # tied parameters are stored once, and wanted under each of their names
        stored = next((name for name in names if name in tensors), None)
        if stored:
            tensors |= {name: tensors[stored] for name in names if name not in tensors}
    check_keys(tensors, expected, str(source))
    if (source / TOKENIZER).is_file():
        write_text_tokenizer(source, folder, num_rows=model.get_input_embeddings().weight.shape[0])
    else:
        warn(
            f"{source}: no {TOKENIZER}, so no text_tokenizer was made; save the tokenizer there with transformers if you need it"
        )
    return [StageFiles("text_llm", node, tensors, {})]


def _hift(source: Path, folder: Path, extra: Mapping[str, Any] | None = None) -> list[StageFiles]:
    path = source / HIFT if source.is_dir() else source
    state = hift_from_released(read_hift(path))
    # a pickle has no plain layout of bytes to copy from; 83 MB
    save_file(state, folder / HIFT_COPY)
    node = merge(vocoder_of_shapes(state, str(path)), extra or {}, f"{source / CONFIG}: {EXTRAS}.vocoder")
    check_keys(state, meta_model(node, str(path)).state_dict(), str(path))
    return [StageFiles("vocoder", node, read_tensor_file(folder / HIFT_COPY), {})]


PLANS: Mapping[str, Callable[[Path, Path], Sequence[StageFiles]]] = {
    "baichuan": _baichuan,
    "whisper": _whisper,
    "llm": _llm,
    "hift": _hift,
}
assert PLANS.keys() == set(KINDS)


def _checked_token_ids(source: Path, config: Mapping[str, Any], where: str) -> int:
    """The id of the audio pad, by name; ValueError where configuration, tokenizer and vocabulary disagree."""
    tokenizer = TextTokenizer(source)
    token_to_id = Tokenizer.from_file(str(tokenizer.file)).token_to_id
    for key, name in TOKEN_IDS.items():
        said, known = (config.get("audio_config") or {}).get(key), token_to_id(name)
        if None not in (said, known) and said != known:
            raise ValueError(
                f"{where}: audio_config.{key} is {said}, but {tokenizer.file} gives {name} the id {known}; "
                "take both files from one place"
            )
    last, rows = max(vars(tokenizer.special).values()), config.get("vocab_size", 0)
    if isinstance(rows, int) and last >= rows > 0:
        raise ValueError(
            f"{where}: vocab_size is {rows}, but {tokenizer.file} has a special token {last}; take both from one place"
        )
    return tokenizer.special.audio_pad


def _code_rate(tokenizer: Mapping[str, Any]) -> float:
    front = tokenizer["frontend"]
    return front["sample_rate"] / (front["hop_length"] * tokenizer["encoder"]["stride"] * tokenizer["bridge"]["pooling"])


def _below(prefix: str, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
