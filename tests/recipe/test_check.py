from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import nn

from bcaudio.recipe import check
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.errors import RecipeError


class Things:
    """One parameter per kind of annotation."""

    def __init__(
        self,
        integer: int = 0,
        number: float = 0.0,
        flag: bool = False,
        text: str = "",
        path: Path = Path(),
        choice: Literal["a", "b"] = "a",
        numbers: Sequence[float] = (),
        pair: tuple[int, str] = (0, ""),
        table: Mapping[str, int] | None = None,
        either: int | list[str] = 0,
        model: nn.Module | None = None,
        anything: Any = None,
        call: Callable[[int], int] | None = None,
    ) -> None: ...


def problems(recipe: dict[str, Any], **kwargs: Any) -> list[str]:
    kwargs = {"schema": None, "given": {}, **kwargs}
    try:
        check_recipe(recipe, "r.yaml", **kwargs)
    except RecipeError as error:
        return [line.removeprefix("r.yaml: ") for line in error.problems]
    return []


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    recipe = {
        "modul": 1,
        "model": {"_target_": "torch.nn.Linear", "in_feature": 3, "out_features": "4", "bias": True},
        "callbacks": [{"_target_": "torch.nn.Identityy"}],
    }
    assert problems(recipe, schema=check.TRAIN_KEYS) == [
        "modul: unknown key; did you mean 'module'?",
        "model.in_feature: unknown key; did you mean 'in_features'?",
        "model.out_features: expected int, got '4' (str)",
        "model.in_features: required by torch.nn.Linear, but missing",
        "callbacks.0._target_: torch.nn.Identityy: torch.nn has no 'Identityy'; did you mean 'Identity'?",
    ]


def test_given_parameters_are_not_missing_but_may_not_be_set() -> None:
    node = {"_target_": "torch.nn.Linear", "in_features": 3}
    assert problems({"a": [node]}) == ["a.0.out_features: required by torch.nn.Linear, but missing"]
    assert problems({"a": [node]}, given={"a.*": {"out_features"}}) == []
    assert problems({"a": [node]}, given={"a": {"out_features"}}) != []
    assert problems({"a": [node]}, given=None) == []
    assert problems({"a": node}, given={"a": {"in_features", "out_features"}}) == [
        "a.in_features: supplied by the program; remove it"
    ]


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        ("integer", [3, "???", "${a.b}", {"_target_": "torch.nn.Identity"}], [3.0, "3", True, None, [3]]),
        ("number", [3, 1e-4], ["1e-4", False, None]),
        ("flag", [True], [1, "true", None]),
        ("text", ["x"], [3, True, ["x"], None]),
        ("path", ["runs/x"], [3]),
        ("choice", ["a"], ["c", 1, None]),
        ("numbers", [[], [1, 2.5]], ["12", [1, "x"], 3, {"a": 1}]),
        ("pair", [[1, "a"]], [[1], [1, 2], [1, "a", 3]]),
        ("table", [None, {}, {"a": 1}], [{"a": "b"}, [1], 3]),
        ("either", [3, ["a"]], ["a", [3], None]),
        ("model", [None, {"_target_": "torch.nn.Identity"}], []),
        ("anything", [1, None, [1]], []),
        ("call", [None, {"_target_": "torch.nn.Identity"}], []),
    ],
)
def test_values_are_held_against_annotations(monkeypatch: pytest.MonkeyPatch, key: str, good: list[Any], bad: list[Any]) -> None:
    monkeypatch.setattr(check, "resolve_target", lambda target: Things if target == "things" else nn.Identity)
    for value in good:
        assert problems({"x": {"_target_": "things", key: value}}) == [], value
    for value in bad:
        found = problems({"x": {"_target_": "things", key: value}})
        assert len(found) == 1, value
        assert found[0].startswith(f"x.{key}"), found


def test_a_wrong_entry_of_a_list_is_named_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "resolve_target", lambda _: Things)
    assert problems({"x": {"_target_": "things", "numbers": [1, "x"]}}) == ["x.numbers.1: expected float, got 'x' (str)"]
    assert problems({"x": {"_target_": "things", "choice": "c"}}) == ["x.choice: expected one of 'a', 'b', got 'c' (str)"]
