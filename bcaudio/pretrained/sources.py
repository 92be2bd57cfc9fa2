"""What lies in a folder of somebody else: its kind, its configuration, its tensors. Nothing in it is trusted."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from bcaudio.pretrained.tensor_files import StoredTensor, read_tensor_file

KINDS = ("baichuan", "whisper", "llm", "hift")
CONFIG, INDEX, WEIGHTS, HIFT = "config.json", "model.safetensors.index.json", "model.safetensors", "hift.pt"
TOKENIZER = "tokenizer.json"
TOKENIZER_FILES = (
    TOKENIZER,
    *("tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    "chat_template.jinja",
)
MAX_JSON_BYTES, MAX_HIFT_BYTES = 64 * 2**20, 2 * 2**30


def read_json_file(path: Path) -> dict[str, Any]:
    """A JSON object of reasonable size.

    Raises:
        FileNotFoundError, ValueError: with the file and the remedy.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give the whole published folder")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, but at most {MAX_JSON_BYTES} are read; this is another file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no valid JSON ({error}); get it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, not an object; get it again")
    return content


def kind_of(source: Path) -> str:
    """One of KINDS, from the configuration or the file.

    Raises:
        FileNotFoundError: no such source, or a folder without config.json.
        ValueError: an architecture we do not know.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source}: no such file or folder; give a published model folder or a hift.pt")
    if source.is_file() or (not (source / CONFIG).exists() and (source / HIFT).is_file()):
        return "hift"
    path = source / CONFIG
    config = read_json_file(path)
    architectures, model_type = config.get("architectures") or [], config.get("model_type")
    if model_type == "omni" or "OmniForCausalLM" in architectures:
        return "baichuan"
    if model_type == "whisper":
        return "whisper"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type in CONFIG_MAPPING:
        return "llm"
    raise ValueError(
        f"{path}: unknown architecture {', '.join(map(str, architectures)) or 'none'} (model_type {model_type!r}); known are "
        "Baichuan-Audio (omni), whisper, and causal language models of the installed transformers"
    )


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a folder: those of the index, or of a single model.safetensors.

    Raises:
        FileNotFoundError: no weights, or a missing shard.
        ValueError: a broken file, an index that names files elsewhere, or one that disagrees with the shards.
    """
    if not (folder / INDEX).is_file():
        if not (folder / WEIGHTS).is_file() and list(folder.glob("*.bin")):
            raise FileNotFoundError(f"{folder}: only *.bin, which are pickles and not read; save the model as safetensors first")
        return read_tensor_file(folder / WEIGHTS)
    weight_map = read_json_file(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise ValueError(f"{folder / INDEX}: has no weight_map; get it again")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(map(str, weight_map.values()))):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{folder / INDEX}: names {file!r}, but shards are *.safetensors in the folder itself; refused")
        named = [name for name, other in weight_map.items() if other == file]
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder / file}: missing, but {INDEX} names it for {len(named)} tensors; get this shard, too"
            )
        shard = read_tensor_file(folder / file)
        if absent := [name for name in named if name not in shard]:
            raise ValueError(f"{folder / file}: has no {absent[0]} ({len(absent)} tensors of {INDEX} absent); get both again")
        if twice := tensors.keys() & shard.keys():
            raise ValueError(f"{folder / file}: {min(twice)} stands in another shard, too; get the folder again")
        tensors |= shard
    return tensors


def read_hift(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a hift.pt, without running anything that is pickled in it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a flat state dict of tensors, or code in the pickle.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give CosyVoice 2's hift.pt")
    if path.stat().st_size > MAX_HIFT_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, but a vocoder has at most {MAX_HIFT_BYTES}; this is another file")
    try:
        with warnings.catch_warnings():  # about pickle protocols, which says nothing to the user
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(
            f"{path}: holds more than tensors (code in the pickle), so it is not opened; "
            "get the original, or save its state dict alone"
        ) from None
    except (RuntimeError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: no complete PyTorch file ({str(error).splitlines()[0]}); get it again") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"{path}: not a flat mapping from name to tensor; save the generator's state dict alone")
    return {str(name): value.detach().contiguous().clone() for name, value in state.items()}
