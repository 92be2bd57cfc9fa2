"""`bcaudio export`: stage folders -> the published layout, Hugging Face folders, or a clean copy of a system."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from bcaudio.checkpoint import FINGERPRINT, RECIPE, WEIGHTS, load_state, taken_file
from bcaudio.pretrained.config import EXTRAS, config_of_models, models_of_config
from bcaudio.pretrained.importing import GENERATION_CONFIG, OURS, RELEASED_CONFIG
from bcaudio.pretrained.names import is_ours_only, llm_to_released, released_order, to_released
from bcaudio.pretrained.nodes import Node, complete, difference
from bcaudio.pretrained.sources import CONFIG, HIFT, TOKENIZER_FILES, read_json_file
from bcaudio.pretrained.stages import FOLDERS, PIPELINE, RECORD, StageFiles, check_done, read_stage, system_of
from bcaudio.pretrained.target import byte_progress, new_folder, print_summary, warn
from bcaudio.pretrained.tensor_files import DTYPES, Advance, StoredTensor, join_rows, write_shards, write_tensor_file
from bcaudio.pretrained.text_tokenizers import copy_tokenizer
from bcaudio.pretrained.to_huggingface import write_huggingface
from bcaudio.pretrained.vocoder_sizes import vocoder_of_shapes
from bcaudio.recipe.load import dump_recipe, load_recipe
from bcaudio.text.tokenizer import TextTokenizer

FORMATS = ("baichuan", "huggingface", "bcaudio")
SHARD_BYTES = 5 * 10**9
# part of the released layout -> role in a system
ROLES: Mapping[str, str] = {"tokenizer": "tokenizer", "audio_llm": "audio_llm", "flow": "flow_decoder"}
# role -> folder of what transformers has a class for
HUGGINGFACE: Mapping[str, str] = {"audio_llm": "text_llm", "tokenizer": "whisper_encoder"}


def export_model(run: str | Path, target: str | Path, form: str, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a system, or one stage, for others; `target` appears whole or not at all. Bytes and dtypes of all tensors stay.

    Args:
        run: run folder (with a `pipeline.yaml` that names a system), or a stage folder (not for "baichuan").
        target: new folder.
        form: one of FORMATS.
        shard_bytes: largest file of weights.

    Raises:
        FileNotFoundError, ValueError: one line with what is wrong, where, and the remedy.
    """
    started = time.monotonic()
    run, target = Path(run), Path(target)
    if (run / PIPELINE).is_file():
        folders = system_of(run)
    elif (run / RECIPE).is_file():
        folders = {"stage": run}
    else:
        raise FileNotFoundError(f"{run}: neither {PIPELINE} nor {RECIPE} here; give a run folder or a stage folder of one")
    for folder in folders.values():
        check_done(folder)
    wanted = {"baichuan": {*ROLES.values(), "vocoder"}, "huggingface": {*HUGGINGFACE, "stage"}}.get(form, folders.keys())
    stages = {role: read_stage(folder) for role, folder in folders.items() if role in wanted and (folder / WEIGHTS).exists()}
    with new_folder(target) as folder:
        num_bytes = sum(stage.num_bytes for stage in stages.values())
        with byte_progress("export", folder, num_bytes) as advance:
            written = _WRITERS[form](run, folders, stages, folder, shard_bytes, advance)
    print_summary("exported", target, written.values(), started)


def _baichuan(
    run: Path, folders: Mapping[str, Path], stages: Mapping[str, StageFiles], out: Path, shard_bytes: int, advance: Advance
) -> dict[str, StoredTensor]:
    if missing := [role for role in ("text_tokenizer", *ROLES.values()) if role not in folders]:
        raise ValueError(f"{run}: has no {', '.join(missing)}, which the released layout needs; export the folder of a whole run")
    if left_out := folders.keys() - {"text_tokenizer", "vocoder", *ROLES.values()}:
        warn(f"{run}: {', '.join(sorted(left_out))} has no place in the released layout and is left out")
    models = {part: stages[role].model for part, role in ROLES.items()}
    vocoder = stages.get("vocoder")
    tokenizer = TextTokenizer(folders["text_tokenizer"])
    config = _kept_config(run, models, vocoder, tokenizer)
    if config is None:
        llm = stages["audio_llm"].tensors
        dtype = DTYPES[llm["llm.lm_head.weight"].dtype][0].removeprefix("torch.")
        token_to_id = Tokenizer.from_file(str(tokenizer.file)).token_to_id
        config = config_of_models(models, token_to_id, dtype, llm["llm.model.embed_tokens.weight"].shape[0])
        if vocoder and (extra := _vocoder_extra(vocoder)):
            config.setdefault(EXTRAS, {})["vocoder"] = extra
        _write_json(out / CONFIG, config)
    else:
        shutil.copyfile(run / RELEASED_CONFIG, out / CONFIG)

    released, extra = {}, {}
    for part, role in ROLES.items():
        tensors = stages[role].tensors
        extra |= {f"{part}.{name}": tensor for name, tensor in tensors.items() if is_ours_only(name)}
        plain = {name: tensor for name, tensor in tensors.items() if not is_ours_only(name)}
        if part == "audio_llm":
            released |= llm_to_released(plain, join_rows, packed=bool(config.get("attention_qkv_pack", True)))
        else:
            released |= to_released(part, plain)
    write_shards(out, {name: released[name] for name in released_order(released)}, shard_bytes, advance)
    if extra:
        write_tensor_file(out / OURS, extra, advance)
    if vocoder:
        torch.save(load_state(folders["vocoder"]), out / HIFT)
        advance(vocoder.num_bytes)
    copy_tokenizer(folders["text_tokenizer"], out)
    if (run / GENERATION_CONFIG).is_file():
        shutil.copyfile(run / GENERATION_CONFIG, out / GENERATION_CONFIG)
    else:
        eos = tokenizer.special.eos
        _write_json(out / GENERATION_CONFIG, {"bos_token_id": eos, "eos_token_id": eos, "max_new_tokens": 2048})
    return {**released, **extra, **(vocoder.tensors if vocoder else {})}


def _huggingface(
    run: Path, folders: Mapping[str, Path], stages: Mapping[str, StageFiles], out: Path, shard_bytes: int, advance: Advance
) -> dict[str, StoredTensor]:
    if "stage" in folders:
        if "stage" not in stages:
            raise ValueError(f"{run}: this stage has no weights; give one that holds a language model or an audio tokenizer")
        taken = (load_recipe(run / RECIPE).get("takes") or {}).get("text_tokenizer", "text_tokenizer")
        return write_huggingface(stages["stage"], out, taken_file(run, taken), shard_bytes, advance, str(run))
    written = {}
    for role, name in HUGGINGFACE.items():
        if role in stages:
            (out / name).mkdir()
            text_tokenizer = folders.get("text_tokenizer")
            part = write_huggingface(stages[role], out / name, text_tokenizer, shard_bytes, advance, str(folders[role]))
            written |= {f"{name}/{tensor}": stored for tensor, stored in part.items()}
    return written


def _bcaudio(
    run: Path, folders: Mapping[str, Path], stages: Mapping[str, StageFiles], out: Path, shard_bytes: int, advance: Advance
) -> dict[str, StoredTensor]:
    written = {}
    for role, folder in folders.items():
        name = FOLDERS.get(role, role)
        copy = out if role == "stage" else out / name
        copy.mkdir(exist_ok=True)
        for file in (RECIPE, FINGERPRINT, RECORD, *TOKENIZER_FILES):
            if (folder / file).is_file():
                shutil.copyfile(folder / file, copy / file)
        if role not in stages:
            continue
        digest = write_tensor_file(copy / WEIGHTS, stages[role].tensors, advance)
        recorded = read_json_file(folder / FINGERPRINT).get("weights_sha256", digest)
        if recorded != digest:
            raise ValueError(
                f"{folder / WEIGHTS}: SHA-256 {digest[:12]}, but its {FINGERPRINT} says {recorded[:12]}; the "
                "weights were changed or damaged, run the stage again"
            )
        recipe = load_recipe(copy / RECIPE)
        if recipe["model"] != stages[role].model:
            (copy / RECIPE).write_text(dump_recipe(recipe | {"model": stages[role].model}), encoding="utf-8")
        written |= {f"{name}/{tensor}": stored for tensor, stored in stages[role].tensors.items()}
    if "stage" not in folders:
        system = {role: FOLDERS.get(role, role) for role in folders}
        name = load_recipe(run / PIPELINE, missing_ok=True).get("name", run.resolve().name)
        (out / PIPELINE).write_text(dump_recipe({"name": name, "system": system}), encoding="utf-8")
        for file in (RELEASED_CONFIG, GENERATION_CONFIG):
            if (run / file).is_file():
                shutil.copyfile(run / file, out / file)
    return written


Writer = Callable[[Path, Mapping[str, Path], Mapping[str, StageFiles], Path, int, Advance], dict[str, StoredTensor]]
_WRITERS: Mapping[str, Writer] = {"baichuan": _baichuan, "huggingface": _huggingface, "bcaudio": _bcaudio}
assert set(_WRITERS) == set(FORMATS)


def _kept_config(
    run: Path, models: Mapping[str, Node], vocoder: StageFiles | None, tokenizer: TextTokenizer
) -> dict[str, Any] | None:
    """The config.json that the run was imported with, if it still describes exactly these models."""
    path = run / RELEASED_CONFIG
    if not path.is_file():
        return None
    config = read_json_file(path)
    base = models_of_config(config, tokenizer.special.audio_pad, str(path))
    changed = [part for part, node in models.items() if difference(complete(node), complete(base[part]), part)]
    if vocoder and _vocoder_extra(vocoder) != ((config.get(EXTRAS) or {}).get("vocoder") or {}):
        changed.append("vocoder")
    if changed:
        warn(f"{run}: {', '.join(changed)} differ from {RELEASED_CONFIG}; a new config.json is made")
    return None if changed else config


def _vocoder_extra(vocoder: StageFiles) -> Node:
    """What the shapes of its tensors do not tell about a vocoder."""
    return difference(complete(vocoder.model), complete(vocoder_of_shapes(vocoder.tensors, vocoder.name)), "vocoder")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
