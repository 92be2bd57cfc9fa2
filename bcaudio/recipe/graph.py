"""A pipeline: stages, what each takes from which, and which of them are done."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcaudio.recipe.check import TRAIN_GIVEN, TRAIN_KEYS, Given, check_recipe
from bcaudio.recipe.errors import RecipeError, did_you_mean
from bcaudio.recipe.load import dump_recipe, format_override, key_paths, load_recipe, parse_value
from bcaudio.recipe.matrix import expand, matrix_problems
from bcaudio.recipe.record import KEY_PACKAGES, comparable, is_alive, read_json, stage_key, taken_key, versions

PIPELINE_KEYS = frozenset({"name", "run_dir", "runs", "matrix", "system", "stages"})
STAGE_KEYS = frozenset({"command", "recipe", "takes", "overrides"})


@dataclass(frozen=True)
class Command:
    """A program that runs one stage: `argv RECIPE key=value... out=... takes.x=...`.

    Args:
        argv: its beginning.
        schema: top-level keys of its recipes; None: any. `module:NAME` says where they stand, for rooms above this one.
        given: parameters it supplies itself (see check_recipe); None: not known.
    """

    argv: tuple[str, ...]
    schema: Collection[str] | str | None = None
    given: Given | None = None

    def check(self, recipe: Mapping[str, Any], path: Path) -> None:
        """check_recipe with what this command reads and supplies."""
        schema = self.schema
        if isinstance(schema, str):
            module, _, name = schema.partition(":")
            schema = getattr(importlib.import_module(module), name)
        check_recipe(recipe, path, schema, self.given)


COMMANDS: Mapping[str, Command] = {
    "train": Command((sys.executable, "-m", "bcaudio", "train"), TRAIN_KEYS, TRAIN_GIVEN),
    "data_prep": Command((sys.executable, "-m", "data_prep", "run"), "data_prep.__main__:DATA_KEYS", {}),
    "evaluate": Command((sys.executable, "-m", "bcaudio", "evaluate"), "bcaudio.evaluate:KEYS", {}),
    "report": Command((sys.executable, "-m", "bcaudio", "report"), "bcaudio.evaluation.report:KEYS", {}),
    "ablation": Command((sys.executable, "-m", "bcaudio", "ablation"), "bcaudio.evaluation.ablation:KEYS", {}),
}
# A key that only recipes of this command have.
COMMAND_OF_KEY: Mapping[str, str] = {
    "module": "train",
    "job": "data_prep",
    "benchmarks": "evaluate",
    "run_dir": "report",
    "comparisons": "ablation",
}


@dataclass(frozen=True)
class Stage:
    """One stage of a pipeline.

    Args:
        name, command, recipe_path: as the pipeline says.
        arguments: overrides of the recipe, with `out=` and `takes.x=`.
        takes: name in the recipe -> stage.
        given: name in the recipe -> folder of a stage of another run.
        folder: `<run_dir>/<name>`.
        recipe: resolved with `arguments`.
        taken_keys: name in the recipe's `takes` -> key of that folder, once its stage is done.
        key: what the stage is made of (stage_key).
    """

    name: str
    command: str
    recipe_path: Path
    arguments: tuple[str, ...]
    takes: Mapping[str, str]
    given: Mapping[str, Path]
    folder: Path
    recipe: Mapping[str, Any] = field(repr=False)
    taken_keys: Mapping[str, str] = field(repr=False)
    key: str


@dataclass(frozen=True)
class Pipeline:
    """Stages in an order in which they can run; `source` is the resolved YAML with the overrides of the command line in it."""

    path: Path
    name: str
    run_dir: Path
    system: Mapping[str, str]
    stages: Mapping[str, Stage]
    source: Mapping[str, Any] = field(repr=False)

    def dump(self) -> str:
        """YAML for `<run_dir>/pipeline.yaml`; the recipes' paths are relative to that file, as everywhere."""
        stages = {
            name: {**block, "recipe": os.path.relpath(self.stages[name].recipe_path, self.run_dir)}
            for name, block in self.source["stages"].items()
        }
        return dump_recipe({**self.source, "run_dir": str(self.run_dir), "stages": stages})

    def descendants(self, names: Collection[str]) -> set[str]:
        """The named stages and everything that takes from them, directly or not."""
        found = set(names)
        for stage in self.stages.values():
            if found & set(stage.takes.values()):
                found.add(stage.name)
        return found


@dataclass(frozen=True)
class State:
    """What a stage folder says about its stage: `new`, `done`, `stale` (made of something else), `running`, `cut off`."""

    word: str
    reason: str = ""
    record: Mapping[str, Any] = field(default_factory=dict, repr=False)


def load_pipeline(path: str | Path, overrides: Sequence[str] = (), commands: Mapping[str, Command] = COMMANDS) -> Pipeline:
    """Read a pipeline and the recipes of all its stages.

    Args:
        path: YAML file, or a run folder with its `pipeline.yaml` (then `run_dir` is that folder).
        overrides: `run_dir=...` (or another key of the pipeline) and `STAGE.dotted.key=value` for the recipe of a stage.
        commands: name -> program.

    Raises:
        RecipeError: one line per problem of the pipeline, or else of its recipes.
    """
    path = Path(path)
    if path.is_dir():
        path, overrides = path / "pipeline.yaml", [format_override("run_dir", path), *overrides]
    own = [o for o in overrides if _split_override(o)[0] in PIPELINE_KEYS]
    source = load_recipe(path, own)
    matrix = source.pop("matrix", {})
    if problems := [f"{path}: {problem}" for problem in matrix_problems(matrix)]:
        raise RecipeError(problems)
    try:
        source["stages"] = expand(source.get("stages"), matrix)
    except RecipeError as error:
        raise RecipeError(f"{path}: {problem}" for problem in error.problems) from None
    problems = [f"{path}: {problem}" for problem in _problems(source, commands)]
    if problems:
        raise RecipeError(problems)
    for override in overrides:
        stage_name, key, text = _split_override(override)
        if stage_name not in source["stages"] and override not in own:
            problems.append(
                f"{path}: {override}: neither a stage nor a key of the pipeline{did_you_mean(stage_name, source['stages'])}"
            )
        elif override not in own:
            source["stages"][stage_name].setdefault("overrides", {})[key] = parse_value(text)
    if problems:
        raise RecipeError(problems)
    stages: dict[str, Stage] = {}
    for name in _order(source["stages"], path):
        try:
            stages[name] = _stage(name, source, path, stages)
        except RecipeError as error:
            problems.extend(f"stage {name}: {line}" for line in error.problems)
        except KeyError:  # a stage that it takes from has problems of its own
            continue
    if problems:
        raise RecipeError(problems)
    return Pipeline(path, str(source.get("name", path.stem)), Path(source["run_dir"]), source.get("system") or {}, stages, source)


def check_pipeline(pipeline: Pipeline, commands: Mapping[str, Command] = COMMANDS) -> None:
    """check_recipe over all stages. Raises RecipeError with the problems of all of them."""
    problems: list[str] = []
    for stage in pipeline.stages.values():
        try:
            commands[stage.command].check(stage.recipe, stage.recipe_path)
        except RecipeError as error:
            problems.extend(line for line in error.problems if line not in problems)
    if problems:
        raise RecipeError(problems)


def stage_state(stage: Stage) -> State:
    """Compare a stage with its folder."""
    record = read_json(stage.folder / "stage.json")
    if not record:
        return State("new")
    status = record.get("status")
    if status == "running" and is_alive(record):
        return State("running", f"by process {record['pid']}", record)
    if record.get("key") != stage.key:
        return State("stale", "; ".join(_differences(stage, record)) or "made by other code", record)
    if status == "done":
        return State("done", "", record)
    return State("cut off", str(record.get("reason") or ("killed" if status == "running" else status)), record)


def _split_override(override: str) -> tuple[str, str, str]:
    """`+stage.a.b=c` -> (`stage`, `+a.b`, `c`)."""
    key, _, text = override.partition("=")
    first, _, rest = key.removeprefix("+").partition(".")
    return first, ("+" if key.startswith("+") else "") + rest, text


def _problems(source: Mapping[str, Any], commands: Mapping[str, Command]) -> Iterator[str]:
    """What is wrong with the pipeline file itself."""
    yield from (f"{key}: unknown key{did_you_mean(str(key), PIPELINE_KEYS)}" for key in source if key not in PIPELINE_KEYS)
    if not isinstance(source.get("run_dir"), str):
        yield f"run_dir: expected the folder for the stages, got {source.get('run_dir')!r}"
    runs = source.get("runs", {})
    if not isinstance(runs, Mapping) or not all(isinstance(folder, str) for folder in runs.values()):
        yield f"runs: expected a mapping from a name to the folder of another run, got {runs!r}"
        runs = {}
    stages = source.get("stages")
    if not isinstance(stages, Mapping) or not stages:
        yield "stages: expected a mapping from stage name to command, recipe, takes, overrides"
        return
    for name, block in stages.items():
        where = f"stages.{name}"
        if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) or name in PIPELINE_KEYS:
            yield f"{where}: no good name; use letters, digits, _ and -, and none of {', '.join(sorted(PIPELINE_KEYS))}"
        if not isinstance(block, Mapping):
            yield f"{where}: expected a mapping with {', '.join(sorted(STAGE_KEYS))}, got {block!r}"
            continue
        yield from (f"{where}.{key}: unknown key{did_you_mean(str(key), STAGE_KEYS)}" for key in block if key not in STAGE_KEYS)
        if block.get("command") not in commands:
            yield f"{where}.command: no command {block.get('command')!r}{did_you_mean(str(block.get('command')), commands)}"
        if not isinstance(block.get("recipe"), str):
            yield f"{where}.recipe: expected a file relative to the pipeline, got {block.get('recipe')!r}"
        for key in ("takes", "overrides"):
            if not isinstance(block.get(key, {}), Mapping):
                yield f"{where}.{key}: expected a mapping, got {block[key]!r}"
        takes = block.get("takes", {})
        for key, taken in takes.items() if isinstance(takes, Mapping) else ():
            take = str(key).removeprefix("+")
            run, slash, _ = str(taken).partition("/")
            if slash and run not in runs:
                yield f"{where}.takes.{take}: no run {run!r}{did_you_mean(run, map(str, runs))}"
            elif not slash and taken not in stages:
                yield f"{where}.takes.{take}: no stage {taken!r}{did_you_mean(str(taken), map(str, stages))}"
    system = source.get("system") or {}
    for role, stage in system.items() if isinstance(system, Mapping) else ():
        if stage not in stages:
            yield f"system.{role}: no stage {stage!r}{did_you_mean(str(stage), map(str, stages))}"


def _order(stages: Mapping[str, Any], path: Path) -> list[str]:
    """Stage names, each after what it takes from, else as in the file. Raises RecipeError naming a circle."""
    ordered: list[str] = []

    def visit(name: str, chain: tuple[str, ...]) -> None:
        if name in chain:
            raise RecipeError(
                f"{path}: stages: they take from each other in a circle: {' <- '.join((*chain[chain.index(name) :], name))}"
            )
        if name not in ordered:
            for taken in stages[name].get("takes", {}).values():
                if "/" not in taken:
                    visit(taken, (*chain, name))
            ordered.append(name)

    for name in stages:
        visit(name, ())
    return ordered


def _stage(name: str, source: Mapping[str, Any], path: Path, stages: Mapping[str, Stage]) -> Stage:
    """Load the recipe of a stage; `stages` holds those it takes from (KeyError when one of them could not be loaded)."""
    block, folder = source["stages"][name], Path(source["run_dir"]) / name
    takes: dict[str, str] = {}
    given: dict[str, Path] = {}
    recipe_path = Path(os.path.normpath(path.parent / block["recipe"]))
    arguments = [format_override(key, value) for key, value in _flat(block.get("overrides", {}))]
    arguments.append(format_override("out", folder))
    for key, other in block.get("takes", {}).items():
        take, (run, slash, rest) = key.removeprefix("+"), other.partition("/")
        if slash:
            given[take] = Path(source["runs"][run]) / rest
        else:
            takes[take] = other
        taken = given[take] if slash else stages[other].folder
        arguments.append(format_override(f"{'+' * key.startswith('+')}takes.{take}", taken))
    recipe = load_recipe(recipe_path, arguments)
    folders = recipe.get("takes") or {}
    if not isinstance(folders, Mapping):
        raise RecipeError(f"{recipe_path}: takes: expected a mapping from name to folder, got {folders!r}")
    taken_keys = {take: stages[takes[take]].key if take in takes else taken_key(at) for take, at in folders.items()}
    key = stage_key(recipe, taken_keys)
    return Stage(name, block["command"], recipe_path, tuple(arguments), takes, given, folder, recipe, taken_keys, key)


def _flat(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested overrides by dotted key, so that a misspelt one is noticed; lists stay whole."""
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _differences(stage: Stage, record: Mapping[str, Any]) -> Iterator[str]:
    """Why a finished folder is not what the stage is now: versions, taken stages, at most three keys of the recipe."""
    for package in KEY_PACKAGES:
        old = record.get("versions", {}).get(package)
        if old != versions()[package]:
            yield f"{package} was {old}, is {versions()[package]}"
    recorded = record.get("takes", {})
    for take in sorted(recorded.keys() | stage.taken_keys.keys()):
        if recorded.get(take, {}).get("key") != stage.taken_keys.get(take):
            yield f"takes.{take} ({stage.takes.get(take, take)}) has changed"
    try:
        old_recipe = dict(key_paths(comparable(load_recipe(stage.folder / "recipe.yaml", missing_ok=True))))
    except RecipeError:
        yield "its recipe.yaml cannot be read"
        return
    recipe = dict(key_paths(comparable(stage.recipe)))
    changed = [key for key in {**old_recipe, **recipe} if old_recipe.get(key, "absent") != recipe.get(key, "absent")]
    yield from (f"{key} was {old_recipe.get(key, 'absent')}, is {recipe.get(key, 'absent')}" for key in changed[:3])
    if len(changed) > 3:
        yield f"{len(changed) - 3} more keys"
