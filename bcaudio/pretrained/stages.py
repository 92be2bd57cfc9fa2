"""Stage folders as import writes and export reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcaudio.checkpoint import FINGERPRINT, RECIPE, WEIGHTS, taken_file
from bcaudio.pretrained.key_report import check_keys
from bcaudio.pretrained.nodes import Node, meta_model
from bcaudio.pretrained.tensor_files import Advance, StoredTensor, read_tensor_file, write_tensor_file
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import read_json, stage_record

PIPELINE, RECORD = "pipeline.yaml", "stage.json"
# role in a system -> name of its folder in an import
FOLDERS: Mapping[str, str] = {
    "text_tokenizer": "text_tokenizer",
    "tokenizer": "tokenizer",
    "audio_llm": "audio_llm",
    "flow_decoder": "flow",
    "vocoder": "vocoder",
    "auditor": "auditor",
}


@dataclass(frozen=True)
class StageFiles:
    """The weights of one stage and what builds them.

    Args:
        name: of the stage folder.
        model: the recipe's node.
        tensors: under our names.
        fingerprint: what downstream stages compare.
    """

    name: str
    model: Node
    tensors: Mapping[str, StoredTensor]
    fingerprint: Mapping[str, Any]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def write_stage(root: Path, stage: StageFiles, origin: Mapping[str, str], advance: Advance | None = None) -> None:
    """Write `<root>/<name>` such that `load_model`, `init_from` and `System` take it for a finished stage.

    Args:
        root: parent folder.
        stage: what to write.
        origin: where it comes from, for the recipe.
        advance: see `write_tensor_file`.
    """
    folder = root / stage.name
    folder.mkdir(parents=True)
    digest = write_tensor_file(folder / WEIGHTS, stage.tensors, advance)
    content = {**stage.fingerprint, "weights_sha256": digest}
    (folder / FINGERPRINT).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    recipe = {"name": stage.name, "model": stage.model, "imported": {**origin, "weights_sha256": digest}}
    with stage_record(folder, recipe) as record:
        record.add(num_tensors=len(stage.tensors), num_bytes=stage.num_bytes)


def read_stage(folder: Path) -> StageFiles:
    """A finished stage, its tensors checked against its recipe and in the order of its state dict.

    Raises:
        FileNotFoundError: unfinished, or without weights.
        ValueError: tensors that do not fit.
    """
    check_done(folder)
    recipe = load_recipe(folder / RECIPE)
    if "model" not in recipe:
        raise ValueError(f"{folder / RECIPE}: has no 'model'; this stage made none")
    model = dict(recipe["model"])
    if file := model.pop("units_file", None):  # a recogniser's vocabulary, which would not travel with the folder
        model["units"] = json.loads(taken_file(folder, file).read_text(encoding="utf-8"))
    tensors = read_tensor_file(folder / WEIGHTS)
    expected = meta_model(model, f"{folder / RECIPE}: model").state_dict()
    check_keys(tensors, expected, str(folder / WEIGHTS))
    tensors = {name: tensors[name] for name in expected}
    fingerprint = {key: value for key, value in read_json(folder / FINGERPRINT).items() if key != "weights_sha256"}
    return StageFiles(folder.name, model, tensors, fingerprint)


def check_done(folder: Path) -> None:
    """FileNotFoundError unless the stage in `folder` is finished."""
    if read_json(folder / RECORD).get("status") != "done":
        raise FileNotFoundError(f"{folder}: this stage is not finished; go on with `bcaudio run`")


def system_of(run: Path) -> dict[str, Path]:
    """Role -> stage folder, as the run's pipeline names them.

    Raises:
        ValueError: the pipeline names no system.
    """
    roles = load_recipe(run / PIPELINE, missing_ok=True).get("system")
    if not roles:
        raise ValueError(f"{run / PIPELINE}: names no system, so there is nothing to export; export a stage folder of it")
    return {role: run / name for role, name in roles.items()}
