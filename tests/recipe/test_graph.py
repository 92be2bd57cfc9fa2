from pathlib import Path

import pytest

from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.graph import Command, load_pipeline, stage_state
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import stage_record

COMMANDS = {"train": Command(("true",))}


def write(folder: Path, stages: str, **recipes: str) -> Path:
    for name, text in recipes.items():
        (folder / f"{name}.yaml").write_text(text)
    path = folder / "pipeline.yaml"
    path.write_text(f"name: p\nrun_dir: {folder}/run\nstages:\n{stages}")
    return path


def finish(path: Path, *names: str) -> None:
    for name in names:
        stage = load_pipeline(path, commands=COMMANDS).stages[name]
        with stage_record(stage.folder, stage.recipe):
            pass


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        "  b: {command: train, recipe: b.yaml, takes: {data: a}, overrides: {x.y: 2}}\n"
        "  a: {command: train, recipe: a.yaml}\n"
        "  c: {command: train, recipe: a.yaml}\n",
        a="seed: 0",
        b='x: {y: 1}\ntakes: {data: "???"}\nshards: ${takes.data}/*.tar',
    )


def states(path: Path, *overrides: str) -> dict[str, tuple[str, str]]:
    pipeline = load_pipeline(path, overrides, COMMANDS)
    return {name: (state.word, state.reason) for name, stage in pipeline.stages.items() for state in [stage_state(stage)]}


def test_stages_are_ordered_by_what_they_take_and_get_their_paths(chain: Path) -> None:
    pipeline = load_pipeline(chain, commands=COMMANDS)
    assert list(pipeline.stages) == ["a", "b", "c"]
    run = chain.parent / "run"
    assert pipeline.stages["b"].arguments == ("x.y=2", f"out={run}/b", f"takes.data={run}/a")
    assert pipeline.stages["b"].recipe["shards"] == f"{run}/a/*.tar"
    assert pipeline.descendants(["a"]) == {"a", "b"}


def test_the_command_line_overrides_stages_and_run_dir(chain: Path) -> None:
    pipeline = load_pipeline(chain, ["run_dir=/r", "b.x.y=5", "+a.more=1"], COMMANDS)
    assert pipeline.stages["b"].arguments == ("x.y=5", "out=/r/b", "takes.data=/r/a")
    assert pipeline.stages["a"].recipe["more"] == 1


def test_the_run_dir_does_not_change_the_keys(chain: Path) -> None:
    one, other = (load_pipeline(chain, [f"run_dir={r}"], COMMANDS) for r in ("/r", "/q"))
    assert {n: s.key for n, s in one.stages.items()} == {n: s.key for n, s in other.stages.items()}


def test_done_and_stale_follow_from_recipe_and_taken_stages(chain: Path) -> None:
    assert states(chain) == {"a": ("new", ""), "b": ("new", ""), "c": ("new", "")}
    finish(chain, "a", "b", "c")
    assert states(chain) == {"a": ("done", ""), "b": ("done", ""), "c": ("done", "")}
    assert states(chain, "b.x.y=3", "+c.z=1") == {
        "a": ("done", ""),
        "b": ("stale", "x.y was 2, is 3"),
        "c": ("stale", "z was absent, is 1"),
    }
    assert states(chain, "a.seed=4") == {
        "a": ("stale", "seed was 0, is 4"),
        "b": ("stale", "takes.data (a) has changed"),
        "c": ("done", ""),
    }


def test_a_new_torch_makes_finished_stages_stale(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(chain, "a")
    from bcaudio.recipe import graph, record

    newer = {**record.versions(), "torch": "99"}
    for module in (graph, record):
        monkeypatch.setattr(module, "versions", lambda: newer)
    word, reason = states(chain)["a"]
    assert word == "stale"
    assert reason.endswith("is 99")


def test_the_copy_in_the_run_folder_is_the_same_pipeline(chain: Path) -> None:
    pipeline = load_pipeline(chain, ["b.x.y=9"], COMMANDS)
    pipeline.run_dir.mkdir()
    (pipeline.run_dir / "pipeline.yaml").write_text(pipeline.dump())
    copy = load_pipeline(pipeline.run_dir, commands=COMMANDS)
    assert {n: (s.key, s.arguments) for n, s in copy.stages.items()} == {
        n: (s.key, s.arguments) for n, s in pipeline.stages.items()
    }
    assert load_recipe(pipeline.run_dir / "pipeline.yaml")["stages"]["a"]["recipe"] == "../a.yaml"


def test_every_problem_of_the_pipeline_file_is_reported(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "  a: {command: trian, recipe: a.yaml, takes: {x: bbb}}\n  b.c: {command: train}\n"
        "  bb: {command: train, recipe: a.yaml, take: {}}\n"
        "sytem: {}\nsystem: {tokenizer: ab}\n",
    )
    with pytest.raises(RecipeError) as caught:
        load_pipeline(path, commands=COMMANDS)
    found = [line.removeprefix(f"{path}: ") for line in caught.value.problems]
    assert found[:3] == [
        "sytem: unknown key; did you mean 'system'?",
        "stages.a.command: no command 'trian'; did you mean 'train'?",
        "stages.a.takes.x: no stage 'bbb'; did you mean 'bb'?",
    ]
    assert [line.split(": ")[0] for line in found[3:]] == [
        "stages.b.c",
        "stages.b.c.recipe",
        "stages.bb.take",
        "system.tokenizer",
    ]


def test_the_problems_of_all_recipes_are_reported_with_their_stage(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "  a: {command: train, recipe: a.yaml}\n  b: {command: train, recipe: b.yaml, takes: {dat: c}}\n"
        "  c: {command: train, recipe: c.yaml, overrides: {optimizer: {lrr: 1}}}\n"
        "  d: {command: train, recipe: c.yaml, takes: {x: a}}\n",
        a="seed: ???",
        b="takes: {data: x}",
        c="optimizer: {lr: 1}",
    )
    with pytest.raises(RecipeError) as caught:
        load_pipeline(path, commands=COMMANDS)
    # b and d take from stages that could not be loaded: nothing to say about them yet
    assert caught.value.problems == (
        f"stage a: {tmp_path}/a.yaml: seed: a value is required; set it in the recipe or give seed=...",
        f"stage c: {tmp_path}/c.yaml: optimizer.lrr: unknown key; did you mean 'lr'?",
    )


def test_a_take_that_the_recipe_does_not_know_is_refused(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "  a: {command: train, recipe: a.yaml}\n  b: {command: train, recipe: b.yaml, takes: {dat: a}}\n",
        a="seed: 1",
        b="takes: {data: x}",
    )
    with pytest.raises(RecipeError, match=r"stage b: .*b\.yaml: takes\.dat: unknown key; did you mean 'data'\?"):
        load_pipeline(path, commands=COMMANDS)


def test_a_circle_of_stages_is_named(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "  a: {command: train, recipe: a.yaml, takes: {x: b}}\n  b: {command: train, recipe: a.yaml, takes: {x: a}}\n",
        a="s: 1",
    )
    with pytest.raises(RecipeError, match="circle: a <- b <- a"):
        load_pipeline(path, commands=COMMANDS)


def test_an_override_for_no_stage_is_refused(chain: Path) -> None:
    with pytest.raises(RecipeError, match="run_dri=x: neither a stage nor a key of the pipeline"):
        load_pipeline(chain, ["run_dri=x"], COMMANDS)
