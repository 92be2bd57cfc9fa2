"""Every recipe of the repository: it loads, its keys and types fit, and what it trains is what the paper says."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bcaudio.checkpoint import init_from, save_model
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.graph import COMMAND_OF_KEY, COMMANDS, check_pipeline, load_pipeline
from bcaudio.recipe.load import load_recipe
from bcaudio.training.freezing import freeze_all_but

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
FILES = sorted(RECIPES.rglob("*.yaml"))
ARCHITECTURES = set((RECIPES / "base").glob("*.yaml"))  # model nodes alone
BASES = {RECIPES / "micro" / "llm.yaml"} | ARCHITECTURES  # only to be extended
PIPELINES = [path for path in FILES if "stages" in load_recipe(path, missing_ok=True)]
CLUSTERS = set((RECIPES / "cluster").glob("*.yaml"))  # facts of a site, read by `bcaudio launch` (tests/launch)
STAGES = [path for path in FILES if path not in PIPELINES and path not in BASES | CLUSTERS]
FROZEN_HALF = {"llm.model.embed_tokens.weight", "llm.lm_head.weight"}


def name_of(path: Path) -> str:
    return str(path.relative_to(RECIPES))


def micro(name: str) -> dict[str, Any]:
    return load_recipe(RECIPES / "micro" / f"{name}.yaml", missing_ok=True)


def test_the_recipes_are_found() -> None:
    assert len(FILES) > 10
    assert {path.stem for path in ARCHITECTURES} == {"audio_tokenizer", "audio_llm_7b", "flow_decoder", "vocoder"}
    assert set(FILES) >= BASES
    assert len(PIPELINES) >= 2


@pytest.mark.parametrize("path", STAGES, ids=name_of)
def test_every_stage_recipe_loads_and_fits_what_it_names(path: Path) -> None:
    recipe = load_recipe(path, missing_ok=True)
    commands = [command for key, command in COMMAND_OF_KEY.items() if key in recipe] or ["report"]
    assert len(commands) == 1, f"one command runs a recipe, not {commands}"
    COMMANDS[commands[0]].check(recipe, path)
    assert {"name", "seed", "out"} <= recipe.keys()


@pytest.mark.parametrize("path", sorted(ARCHITECTURES), ids=name_of)
def test_an_architecture_is_a_whole_model_and_nothing_of_training(path: Path) -> None:
    recipe = load_recipe(path)
    check_recipe(recipe, path)
    assert "model" in recipe
    assert recipe.keys() <= {"model", "codebook_sizes", "fingerprint"}


@pytest.mark.parametrize("path", sorted(BASES - ARCHITECTURES), ids=name_of)
def test_a_base_recipe_lacks_its_data_and_nothing_else(path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        check_recipe(load_recipe(path, missing_ok=True), path)
    assert caught.value.problems == (f"{path}: data.train: required by bcaudio.data.datamodule.DataModule, but missing",)


@pytest.mark.parametrize("path", PIPELINES, ids=name_of)
def test_every_pipeline_loads_with_nothing_left_to_give_and_fits(path: Path, tmp_path: Path) -> None:
    pipeline = load_pipeline(path, [f"run_dir={tmp_path}"])
    check_pipeline(pipeline)
    assert set(pipeline.system.values()) <= pipeline.stages.keys()
    for stage in pipeline.stages.values():
        assert stage.recipe.get("takes", {}).keys() == stage.takes.keys() | stage.given.keys(), (
            f"{stage.name} takes what nobody gives"
        )


TRAINED = [path for path in STAGES if {"trainable", "init_from"} & load_recipe(path, missing_ok=True).keys()]


def test_the_stages_of_the_audio_llm_say_what_they_train() -> None:
    assert {"stage1", "stage2", "sft"} <= {path.stem for path in TRAINED}


@pytest.mark.parametrize("path", TRAINED, ids=name_of)
def test_every_pattern_matches_a_parameter_of_the_recipes_own_model(path: Path) -> None:
    recipe = load_recipe(path, missing_ok=True)
    with torch.device("meta"):
        names = [name for name, _ in build(recipe["model"]).named_parameters()]
    sources = recipe.get("init_from", [])
    patterns = [*recipe.get("trainable", []), *(pattern for source in sources for pattern in source.get("allow_missing", []))]
    patterns += [re.escape(source.get("target_prefix", "")) + ".*" for source in sources]
    for pattern in patterns:
        assert any(re.fullmatch(pattern, name) for name in names), f"{pattern} matches no parameter"


def trained_by(stage: str) -> tuple[set[str], set[str]]:
    """Names of the parameters that learn in a stage, and of all."""
    recipe = micro(stage)
    model = build(recipe["model"])
    freeze_all_but(model, recipe.get("trainable"))
    parameters = dict(model.named_parameters())
    return {name for name, parameter in parameters.items() if parameter.requires_grad}, set(parameters)


def test_stage_1_trains_the_audio_embedding_and_the_audio_head_alone() -> None:
    trained, names = trained_by("stage1")
    assert trained == {name for name in names if name.split(".")[0] in ("audio_embedding", "audio_head")}
    assert {name.split(".")[0] for name in trained} == {"audio_embedding", "audio_head"}
    assert {name for name in names - trained if not name.startswith("llm.")} == set()


@pytest.mark.parametrize("stage", ["stage2", "sft"])
def test_stage_2_and_fine_tuning_train_all_but_text_embedding_and_lm_head(stage: str) -> None:
    trained, names = trained_by(stage)
    assert names >= FROZEN_HALF
    assert trained == names - FROZEN_HALF


def test_each_stage_of_the_audio_llm_starts_from_the_weights_of_the_one_before(tmp_path: Path) -> None:
    save_model(tmp_path / "text_llm", build(micro("text_llm")["model"]), {})
    before = "text_llm"
    for stage in ("stage1", "stage2", "sft"):
        recipe = micro(stage)
        model = build(recipe["model"])
        (source,) = recipe["init_from"]
        report = init_from(model, **{**source, "folder": tmp_path / before})
        assert report.unexpected == ()
        assert all(name.startswith(("audio_embedding.", "audio_head.")) for name in report.missing), report
        assert bool(report.missing) == (stage == "stage1")
        save_model(tmp_path / stage, model, {})
        before = stage
