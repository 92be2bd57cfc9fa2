from pathlib import Path

import pytest

from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.graph import Command, Pipeline, load_pipeline
from bcaudio.recipe.matrix import expand
from bcaudio.recipe.record import stage_record
from bcaudio.recipe.schedule import run_pipeline

COMMANDS = {"train": Command(("true",))}


def load(folder: Path, head: str, stages: str, *overrides: str) -> Pipeline:
    (folder / "r.yaml").write_text("seed: 7\ntakes: {}")
    path = folder / "pipeline.yaml"
    path.write_text(f"run_dir: {folder}/run\n{head}\nstages:\n{stages}")
    return load_pipeline(path, overrides, COMMANDS)


SWEEP = (
    '  "train_{size}_{seed}": {command: train, recipe: r.yaml, overrides: {seed: "{seed}", +note: "{size} of {seed}"}}\n'
    '  all: {command: train, recipe: r.yaml, takes: {"+{size}_{seed}": "train_{size}_{seed}"}}\n'
)


def test_a_key_stands_for_all_combinations_and_binds_its_names_below() -> None:
    node = {"{a}-{b}": ["{a}", {"{b}": "{a}{b} {c}"}], "plain": "{a}"}
    assert expand(node, {"a": [1], "b": ["x", "y"]}) == {
        "1-x": [1, {"x": "1x {c}"}],
        "1-y": [1, {"y": "1y {c}"}],
        "plain": "{a}",
    }


def test_a_pipeline_gets_a_stage_per_combination_and_one_that_takes_them_all(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "matrix: {seed: [0, 1], size: [s, l]}", SWEEP)
    names = ["train_s_0", "train_s_1", "train_l_0", "train_l_1"]
    assert list(pipeline.stages) == [*names, "all"]
    assert pipeline.stages["train_l_1"].recipe["seed"] == 1  # the number, not its text
    assert pipeline.stages["train_l_1"].recipe["note"] == "l of 1"
    assert pipeline.stages["all"].takes == {name.removeprefix("train_"): name for name in names}
    assert pipeline.stages["all"].recipe["takes"]["s_1"] == str(tmp_path / "run" / "train_s_1")


def test_the_command_line_shortens_the_matrix_and_overrides_one_of_its_stages(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "matrix: {seed: [0, 1], size: [s, l]}", SWEEP, "matrix.size=[m]", "train_m_1.seed=9")
    assert list(pipeline.stages) == ["train_m_0", "train_m_1", "all"]
    assert pipeline.stages["train_m_1"].recipe["seed"] == 9


def test_the_copy_in_the_run_folder_has_the_matrix_written_out(tmp_path: Path) -> None:
    pipeline = load(tmp_path, "matrix: {seed: [0, 1], size: [s]}", SWEEP)
    pipeline.run_dir.mkdir()
    (pipeline.run_dir / "pipeline.yaml").write_text(pipeline.dump())
    copy = load_pipeline(pipeline.run_dir, commands=COMMANDS)
    assert {name: stage.key for name, stage in copy.stages.items()} == {n: s.key for n, s in pipeline.stages.items()}


@pytest.mark.parametrize(
    ("head", "stages", "problem"),
    [
        ("matrix: [1]", SWEEP, "matrix: expected a mapping"),
        ("matrix: {seed: 3}", SWEEP, "matrix.seed: expected a list"),
        ("matrix: {seed: []}", SWEEP, "matrix.seed: expected a list"),
        ("matrix: {seed: [1, '1']}", SWEEP, "matrix.seed: a value stands there twice"),
        ("matrix: {seed: [0]}", '  "a{sede}": {command: train, recipe: r.yaml}', "stages.a{sede}: no good name"),
        (
            "matrix: {seed: [0]}",
            '  a0: {command: train, recipe: r.yaml}\n  "a{seed}": {command: train, recipe: r.yaml}',
            "a{seed} makes 'a0', which is there already",
        ),
        ("runs: {micro: 3}", "  a: {command: train, recipe: r.yaml}", "runs: expected a mapping"),
        (
            "runs: {micro: x}",
            "  a: {command: train, recipe: r.yaml, takes: {+codes: micor/codes}}",
            "stages.a.takes.codes: no run 'micor'; did you mean 'micro'?",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, head: str, stages: str, problem: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load(tmp_path, head, stages)
    assert problem in str(caught.value)


def test_a_stage_takes_from_a_finished_run_and_waits_for_no_unfinished_one(tmp_path: Path) -> None:
    other, stages = tmp_path / "other", "  a: {command: train, recipe: r.yaml, takes: {+codes: micro/codes}}"
    pipeline = load(tmp_path, f"runs: {{micro: {other}}}", stages)
    with pytest.raises(ValueError, match=r"stage a takes .*other/codes, which is not done; run the pipeline that makes it first"):
        run_pipeline(pipeline, commands=COMMANDS)
    with stage_record(other / "codes", {"seed": 1}) as record:
        pass
    pipeline = load(tmp_path, f"runs: {{micro: {other}}}", stages)
    assert pipeline.stages["a"].takes == {}
    assert pipeline.stages["a"].given == {"codes": other / "codes"}
    assert pipeline.stages["a"].taken_keys == {"codes": record.key}
    assert pipeline.stages["a"].recipe["takes"]["codes"] == str(other / "codes")
