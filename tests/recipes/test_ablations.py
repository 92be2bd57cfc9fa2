"""recipes/ablations: a variant differs from the base in what its name says, and in nothing else."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcaudio.recipe.graph import Pipeline, load_pipeline
from bcaudio.recipe.load import key_paths, load_recipe
from bcaudio.recipe.record import comparable

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load_pipeline(RECIPES / "ablations" / "stages.yaml", [f"run_dir={tmp_path_factory.mktemp('run')}"])


def tasks(pipeline: Pipeline, stage: str) -> list[tuple[str, str, float]]:
    """(corpus, task, weight) of the mixture."""
    found = []
    for source in pipeline.stages[stage].recipe["data"]["train"]:
        corpus = re.search(r"shards/(\w+)-train", source["shards"])
        assert corpus
        found.append((corpus[1], source["task"], source["weight"]))
    return found


def changed(pipeline: Pipeline, stage: str, base: str) -> set[str]:
    """Keys in which two stages differ, but for the mixture."""

    def leaves(name: str) -> Iterator[tuple[str, Any]]:
        recipe = comparable(pipeline.stages[name].recipe)
        return key_paths({**recipe, "data": {**recipe["data"], "train": None}})

    one, other = dict(leaves(stage)), dict(leaves(base))
    return {key for key in one.keys() | other.keys() if one.get(key, "absent") != other.get(key, "absent")}


def test_every_variant_has_three_seeds_an_evaluation_and_a_column_in_the_table(pipeline: Pipeline) -> None:
    variants = {"base", "one_stage", "intlv_audio", "no_replay", "one_stage_no_replay", "no_itts"}
    assert pipeline.stages["table"].takes == {f"{v}_{s}": f"evaluate_{v}_{s}" for v in variants for s in SEEDS}
    for variant in variants:
        for seed in SEEDS:
            assert pipeline.stages[f"evaluate_{variant}_{seed}"].takes == {"audio_llm": f"stage2_{variant}_{seed}"}
            assert pipeline.stages[f"stage2_{variant}_{seed}"].recipe["seed"] == seed
    assert len(pipeline.stages) == 9 + 18 + 18 + 1  # stage 1 of base, intlv_audio, no_itts; stage 2; evaluation; table


def test_seeds_of_a_variant_differ_in_the_seed_alone(pipeline: Pipeline) -> None:
    for stage in ("stage1_no_itts", "stage2_base", "stage2_one_stage"):
        assert changed(pipeline, f"{stage}_1", f"{stage}_0") == {"seed"}
        assert tasks(pipeline, f"{stage}_1") == tasks(pipeline, f"{stage}_0")


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_the_base_is_the_micro_stage_with_fewer_steps(pipeline: Pipeline, stage: str) -> None:
    micro = load_recipe(RECIPES / "micro" / f"{stage}.yaml", missing_ok=True)
    found = pipeline.stages[f"{stage}_base_0"].recipe
    assert [source["weight"] for source in found["data"]["train"]] == [source["weight"] for source in micro["data"]["train"]]
    assert found["max_steps"] < micro["max_steps"]
    assert (found["trainable"], found["losses"], found["seed"]) == (micro["trainable"], micro["losses"], micro["seed"])


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_intlv_audio_pays_for_audio_in_the_same_sources_with_the_same_weights(pipeline: Pipeline, stage: str) -> None:
    paid = {"intlv": "intlv_audio", "intlv_continue": "intlv_continue_audio"}
    base = tasks(pipeline, f"{stage}_base_0")
    assert {task for _, task, _ in base} >= paid.keys()
    assert tasks(pipeline, f"{stage}_intlv_audio_0") == [(corpus, paid.get(task, task), weight) for corpus, task, weight in base]
    assert changed(pipeline, f"{stage}_intlv_audio_0", f"{stage}_base_0") == set()


@pytest.mark.parametrize(("stage", "variant"), [("stage1", "no_itts"), ("stage2", "no_itts"), ("stage2", "no_replay")])
def test_what_a_variant_lacks_is_gone_and_the_rest_is_the_base(pipeline: Pipeline, stage: str, variant: str) -> None:
    base, found = tasks(pipeline, f"{stage}_base_0"), tasks(pipeline, f"{stage}_{variant}_0")
    lacks = {"no_itts": {"itts"}, "no_replay": {"text_answer", "text_translate", "text_story"}}[variant]
    assert {task for _, task, _ in base} >= lacks
    assert found == [entry for entry in base if entry[1] not in lacks]
    assert changed(pipeline, f"{stage}_{variant}_0", f"{stage}_base_0") == set()


def test_variants_start_from_their_own_stage_1_and_no_replay_from_that_of_the_base(pipeline: Pipeline) -> None:
    starts = {"base": "base", "no_replay": "base", "intlv_audio": "intlv_audio", "no_itts": "no_itts"}
    for variant, start in starts.items():
        assert pipeline.stages[f"stage2_{variant}_2"].takes == {"llm": f"stage1_{start}_2"}


def test_one_stage_trains_what_stage_2_trains_for_the_steps_of_both_from_what_stage_1_starts_from(pipeline: Pipeline) -> None:
    one, first, second = (pipeline.stages[name].recipe for name in ("stage2_one_stage_0", "stage1_base_0", "stage2_base_0"))
    assert one["max_steps"] == first["max_steps"] + second["max_steps"]
    assert one["init_from"] == first["init_from"]
    assert one["module"] == first["module"]
    assert tasks(pipeline, "stage2_one_stage_0") == tasks(pipeline, "stage2_base_0")
    of_length = {"max_steps", "data.max_steps", "optimizer.max_steps", "trainer.val_check_interval"}
    of_start = {"init_from.0.folder", "init_from.0.target_prefix", "init_from.0.allow_missing.0", "init_from.0.allow_missing.1"}
    assert changed(pipeline, "stage2_one_stage_0", "stage2_base_0") == of_length | of_start | {"module.audio_embedding_from"}
    assert changed(pipeline, "stage2_one_stage_no_replay_0", "stage2_one_stage_0") == set()
    assert tasks(pipeline, "stage2_one_stage_no_replay_0") == tasks(pipeline, "stage2_no_replay_0")


def test_the_smoke_recipe_is_the_same_graph_with_fewer_seeds() -> None:
    smoke = load_pipeline(RECIPES / "ablations" / "smoke.yaml")
    whole = load_pipeline(RECIPES / "ablations" / "stages.yaml", ["matrix.seed=[0, 1]"])
    assert {n: s.takes for n, s in smoke.stages.items()} == {n: s.takes for n, s in whole.stages.items()}
    for variant in ("base", "one_stage", "no_itts"):
        assert tasks(smoke, f"stage2_{variant}_1") == tasks(whole, f"stage2_{variant}_1")
