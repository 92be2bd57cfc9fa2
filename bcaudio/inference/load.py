"""`--model`: a run, a folder of published weights, or an endpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch.distributed as dist

from bcaudio.checkpoint import RECIPE
from bcaudio.distributed import is_distributed, rank
from bcaudio.inference.remote import RemoteSystem
from bcaudio.inference.sampling import AUDIO
from bcaudio.inference.system import System
from bcaudio.pretrained.importing import import_pretrained
from bcaudio.pretrained.sources import CONFIG, kind_of
from bcaudio.pretrained.stages import PIPELINE
from bcaudio.recipe.load import load_recipe

REMOTE = "openai:"
# published models write and speak at length, and were made to be sampled
PUBLISHED = {"max_text_tokens": 512, "max_reply_tokens": 512, "max_frames": 1500, "speech_options": AUDIO}


def system_of(spec: str | Path, cache: str | Path = "runs/imported", **options: Any) -> System | RemoteSystem:
    """The system that a `--model` names.

    Args:
        spec: the folder of a run; a folder of published Baichuan-Audio weights, imported once; or `openai:URL#MODEL` (the model
            may be an option instead).
        cache: folder of the imported weights, and of an endpoint's answers.
        options: of System or RemoteSystem.

    Raises:
        FileNotFoundError: no such folder, or a stage of the run that is not finished.
        ValueError: a model that cannot hear and speak, or an endpoint without a model's name; one line with the remedy.
        EndpointError: the endpoint does not answer.
    """
    if str(spec).startswith(REMOTE):
        url, _, model = str(spec).removeprefix(REMOTE).partition("#")
        model = options.pop("model", "") or model
        if not model:
            raise ValueError(f"--model {spec}: names no model; write {REMOTE}{url}#MODEL, as the endpoint calls it")
        return RemoteSystem(url, model, **{"cache": Path(cache) / "answers", **options})
    folder = Path(spec)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--model {spec}: no such folder; give a run, a folder of published weights, or {REMOTE}URL#MODEL"
        )
    if (folder / PIPELINE).is_file():
        return System.of_run(_speaking(folder), **options)
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"--model {spec}: holds neither {PIPELINE} (a run) nor {CONFIG} (published weights); give the run's own folder, not "
            "one of its stages"
        )
    if (kind := kind_of(folder)) != "baichuan":
        raise ValueError(f"--model {spec}: is of kind {kind}, without audio head; give a Baichuan-Audio folder or a run's folder")
    return System.of_run(_imported(folder, Path(cache)), **{**PUBLISHED, **options})


def _speaking(run: Path) -> Path:
    """The run, if its audio LLM has an audio head; found in the recipe, before anything is loaded."""
    stage = load_recipe(run / PIPELINE).get("system", {}).get("audio_llm", "")
    recipe = run / stage / RECIPE
    node = load_recipe(recipe).get("model") if recipe.is_file() else None
    if node is not None and not node.get("head"):
        raise ValueError(
            f"{run / PIPELINE}: system.audio_llm is {stage}, which has no audio head; name a stage that has one, such as that of "
            "the instruction tuning"
        )
    return run


def _imported(source: Path, cache: Path) -> Path:
    """The run that published weights become, made once for each state of their folder."""
    files = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in source.iterdir() if file.is_file())
    digest = hashlib.sha256(json.dumps([str(source.resolve()), files]).encode()).hexdigest()
    target = cache / f"{source.resolve().name}-{digest[:12]}"
    if rank() == 0 and not target.exists():
        import_pretrained(source, target)
    if is_distributed():
        dist.barrier()
    return target
