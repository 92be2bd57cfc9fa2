from pathlib import Path

import pytest

from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.load import dump_recipe, format_override, load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "b.yaml").write_text("seed: 1\noptimizer: {lr: 1e-3, warmup_steps: 10}\ndata: {limit: 5}\n")
    path = tmp_path / "stage1.yaml"
    path.write_text(
        "extends: base/b.yaml\noptimizer: {lr: 2e-3}\ndata: {limit: null}\n"
        "callbacks: [{every: 1}, {every: 2}]\nx: ${optimizer.lr}\n"
    )
    return path


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_file_wins_over_base_and_overrides_win_over_both(recipe: Path) -> None:
    assert load_recipe(recipe, ["optimizer.warmup_steps=1e2", "callbacks.1.every=7", "out=runs/x"]) == {
        "seed": 1,
        "optimizer": {"lr": 0.002, "warmup_steps": 100.0},
        "data": {},  # null has removed data.limit
        "callbacks": [{"every": 1}, {"every": 7}],
        "x": 0.002,
        "out": "runs/x",
    }


def test_interpolation_sees_the_overrides(recipe: Path) -> None:
    assert load_recipe(recipe, ["optimizer.lr=5"])["x"] == 5


def test_of_several_bases_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: {p: 1, q: 1}")
    (tmp_path / "b.yaml").write_text("x: {q: 2}")
    (tmp_path / "c.yaml").write_text("extends: [a.yaml, b.yaml]\nz: 3")
    assert load_recipe(tmp_path / "c.yaml") == {"x": {"p": 1, "q": 2}, "z": 3}


def test_a_misspelt_override_names_the_right_key(recipe: Path) -> None:
    assert problems(recipe, "optimizer.lrr=1", "lr=1", "callbacks.2.every=1", "seed.x=1", "seed") == [
        "optimizer.lrr: unknown key; did you mean 'lr'?",
        "lr: unknown key; did you mean 'optimizer.lr'?",
        "callbacks.2: no such entry; callbacks is a list of 2, counted from 0",
        "seed.x: seed is 1, which has no keys",
        "seed: not an override; write key.path=value",
    ]


def test_plus_adds_a_key_and_a_list_entry(recipe: Path) -> None:
    loaded = load_recipe(recipe, ["+trainer.max_steps=3", "+callbacks.2={every: 9}"])
    assert loaded["trainer"] == {"max_steps": 3}
    assert loaded["callbacks"][2] == {"every": 9}


def test_null_removes_list_entries_which_the_other_overrides_go_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("x: [{y: 0}, {y: 1}, {y: 2}, null]")
    assert load_recipe(path, ["x.0=null", "x.1=null", "x.2.y=5"]) == {"x": [{"y": 5}, None]}


def test_a_circle_of_extends_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(RecipeError, match=r"circle: a\.yaml -> b\.yaml -> a\.yaml"):
        load_recipe(tmp_path / "a.yaml")


def test_a_base_that_does_not_exist_is_named_with_who_wants_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: nope.yaml")
    with pytest.raises(RecipeError, match=r"a\.yaml: extends: .*nope\.yaml: no such file"):
        load_recipe(tmp_path / "a.yaml")


def test_all_missing_and_unresolvable_values_are_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("takes:\n  codes: ???\ndata: [{shards: '???'}]\nx: ${nowhere.y}\n")
    found = problems(path)
    assert [line.split(":")[0] for line in found] == ["takes.codes", "data.0.shards", "x"]
    assert "give takes.codes=..." in found[0]
    assert "${nowhere.y} cannot be resolved" in found[2]
    assert load_recipe(path, ["x=1"], missing_ok=True)["takes"] == {"codes": "???"}


@pytest.mark.parametrize("text", ["a: 1\na: 2", "a: [1", "- 1", "a: ${b", "extends: {x: 1}"])
def test_a_broken_file_gives_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "value", ["runs/micro", "a: b", "1", "true", "x # y", "", "null", 3, 1e-05, True, [1, "2"], {"a": "b: c"}, None, "中文=x"]
)
def test_format_override_is_read_back_exactly(tmp_path: Path, value: object) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x: {y: 0}")
    loaded = load_recipe(path, [format_override("x.y", value)])["x"]
    assert loaded == ({} if value is None else {"y": value})


def test_unquoted_marks_in_braces_get_a_hint(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("takes: {codes: ???}")
    with pytest.raises(RecipeError, match=r"line 1, column 16.*'\?\?\?' and '\$\{\.\.\.\}' in quotes"):
        load_recipe(tmp_path / "a.yaml")


def test_dump_is_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    content = {"z": "1e-4", "a": 1e-4, "list": [{"x": None}, "true"], "path": Path("runs/x")}
    path.write_text(dump_recipe(content))
    assert load_recipe(path) == {**content, "path": "runs/x"}
    assert list(load_recipe(path)) == ["z", "a", "list", "path"]
