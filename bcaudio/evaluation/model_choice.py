"""`--model SPEC`: fills a recipe with a run's stages, or puts published weights or an endpoint in the place of its system."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bcaudio.recipe.load import format_override, key_paths, load_recipe
from bcaudio.recipe.record import read_json, taken_key

ENDPOINT = "openai:"
# What may stay without a value: a benchmark that needs it is not run.
OPTIONAL = ("takes", "data_root", "settings", "masks")
_NAMED = re.compile(r"\$\{([\w.]+)\}")


def choose_model(path: str | Path, overrides: Sequence[str], spec: str) -> tuple[dict[str, Any], dict[str, str], Any]:
    """The recipe for a model.

    A run folder fills every `???` of `takes` with its stages and writes to `RUN/evaluations/<name of the recipe>`; the recipe's
    own `system` is used where it has one. Published weights and endpoints replace that (with the options in `settings.system`,
    such as an endpoint's `auditor`) and write to
    `runs/evaluations/<model>/<name of the recipe>`. The recipe's `results` is not written unless it is given.

    Args:
        path: of the recipe; overrides: dotted `key=value`.
        spec: run folder, folder of published weights or `openai:URL`.

    Returns:
        the resolved recipe; why benchmarks are not run whose values are not given, by name; and what else the answers depend on.

    Raises:
        FileNotFoundError: no such folder. ValueError: a folder in which no model is.
        RecipeError: a value is missing without which nothing can run.
    """
    run = _checked(spec)
    raw = load_recipe(path, overrides, missing_ok=True)
    named = {override.partition("=")[0].removeprefix("+") for override in overrides}
    given = list(overrides)
    stages = {} if run is None else stages_of(run)
    given += [
        format_override(f"takes.{name}", stages[name])
        for name, folder in (raw.get("takes") or {}).items()
        if folder == "???" and name in stages
    ]
    replaces = run is None or "system" not in raw
    if replaces and "system" in raw:
        given.append("system=null")
    if "results" in raw and "results" not in named:
        given.append("results=null")
    if raw.get("out") in (None, "???"):
        given.append(format_override("out", _out(spec, run) / str(raw.get("name") or Path(path).stem)))
    not_run, dropped = _not_given(load_recipe(path, given, missing_ok=True), spec)
    recipe = load_recipe(path, [*given, *(f"{key}=null" for key in dropped)])
    settings = recipe.pop("settings", None) or {}  # what refers to them is resolved; what is left may lack values
    recipe["model"] = spec
    recipe.setdefault("benchmarks", {})
    if replaces:
        options = dict(settings.get("system") or {})
        recipe["system"] = {"_target_": "bcaudio.inference.load.system_of", "spec": spec, **options}
    return recipe, not_run, _stamp(spec, run) if replaces else None


def stages_of(run: Path) -> dict[str, Path]:
    """The finished stages of a run by every name under which a recipe may take them: the stage's own, that of the part of the
    system which it makes, and that under which the pipeline's evaluation takes it.
    """
    pipeline = load_recipe(run / "pipeline.yaml", missing_ok=True)
    names = {name: name for name in pipeline["stages"]} | dict(pipeline.get("system") or {})
    for stage in pipeline["stages"].values():
        if stage.get("command") == "evaluate":
            names |= {name: taken for name, taken in stage.get("takes", {}).items() if "/" not in taken}
    return {name: run / stage for name, stage in names.items() if read_json(run / stage / "stage.json").get("status") == "done"}


def _checked(spec: str) -> Path | None:
    """The run folder that a spec names; None for published weights and endpoints."""
    if spec.startswith(ENDPOINT):
        return None
    folder = Path(spec)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"--model {spec}: no such folder; give the folder of a run, one of published weights, or openai:URL of an endpoint"
        )
    if (folder / "pipeline.yaml").is_file():
        return folder
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"--model {spec}: holds neither pipeline.yaml (the folder of a run) nor config.json (published weights); name the "
            "folder above the stages, or openai:URL"
        )
    return None


def _out(spec: str, run: Path | None) -> Path:
    if run is not None:
        return run / "evaluations"
    plain = spec.removeprefix(ENDPOINT).partition("://")[2] or spec.removeprefix(ENDPOINT).rstrip("/")
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", plain if spec.startswith(ENDPOINT) else Path(spec).resolve().name)
    return Path("runs/evaluations") / name.strip("_.")


def _stamp(spec: str, run: Path | None) -> Any:
    """Tells models apart that would be asked under the same recipe."""
    if run is not None:
        parts = dict(load_recipe(run / "pipeline.yaml", missing_ok=True).get("system") or {})
        return {part: taken_key(run / stage) for part, stage in parts.items()}
    if spec.startswith(ENDPOINT):
        return spec
    files = sorted(path for path in Path(spec).iterdir() if path.is_file())
    told = "".join(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}\n" for path in files)
    return hashlib.sha256(told.encode()).hexdigest()


def _not_given(recipe: Mapping[str, Any], spec: str) -> tuple[dict[str, str], list[str]]:
    """Reasons by benchmark, and the keys to drop so that the rest is whole."""
    open_settings = [key for key, _ in _open(recipe.get("settings") or {}, "settings")]
    reasons = {}
    for name, node in (recipe.get("benchmarks") or {}).items():
        for key, value in _open(node, f"benchmarks.{name}"):
            reasons.setdefault(name, _reason(key, value, spec, open_settings))
    dropped = [f"benchmarks.{name}" for name in reasons]
    for top in OPTIONAL:
        found = [key for key, _ in _open(recipe.get(top), top)]
        dropped += [top] if found and top == "masks" else found
    return reasons, dropped


def _open(node: Any, where: str) -> Iterator[tuple[str, str]]:
    """(key path, text) of every leaf without a value."""
    for key, value in key_paths(node, where):
        if isinstance(value, str) and (value == "???" or _NAMED.search(value)):
            yield key, value


def _reason(key: str, value: str, spec: str, open_settings: Sequence[str]) -> str:
    missing = ", ".join(_NAMED.findall(value))
    if missing.startswith("takes."):
        return f"{missing} is not given, and {spec} has no finished stage of that name; give {missing}=FOLDER"
    if not missing:
        tails = [setting for setting in open_settings if key.endswith("." + setting.removeprefix("settings."))]
        missing = tails[0] if tails else key
    return f"{missing} is not given; give {missing}=VALUE"
