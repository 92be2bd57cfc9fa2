"""The table of ablations, worked out by hand."""

import json
import math
from pathlib import Path

import pytest

from bcaudio.evaluation.ablation import Spread, ablation, claims_of, verdict
from bcaudio.recipe.errors import RecipeError

RECIPE = """
name: table
seed: 0
takes: {base_0: "", base_1: "", base_2: "", bare_0: "", bare_1: "", bare_2: ""}
out: ""
metrics: {accuracy: share of right answers, wer: word errors, bleu: BLEU}
comparisons:
  bare:
    {title: bare is worse, paper: "+2.1 points", variant: bare, against: base,
     expects: {accuracy: lower, wer: higher, bleu: lower}}
"""
BASE = [{"accuracy": 0.9, "wer": 0.10}, {"accuracy": 0.8, "wer": 0.12}, {"accuracy": 0.85, "wer": 0.11}]
BARE = [{"accuracy": 0.7, "wer": 0.09}, {"accuracy": 0.59, "wer": 0.15}, {"accuracy": 0.66, "wer": 0.12}]


def prepare(folder: Path, recipe: str = RECIPE) -> tuple[Path, list[str]]:
    (folder / "table.yaml").write_text(recipe)
    overrides = [f"out={folder}/table"]
    for variant, by_seed in (("base", BASE), ("bare", BARE)):
        for seed, results in enumerate(by_seed):
            at = folder / f"{variant}_{seed}"
            at.mkdir()
            rows = {key: {"value": value, "total": 100} for key, value in results.items()} | {"bleu": {"value": None}}
            (at / "results.json").write_text(json.dumps({"results": rows}))
            overrides.append(f"takes.{variant}_{seed}={at}")
    return folder / "table.yaml", overrides


def test_mean_deviation_and_interval_of_three_values() -> None:
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 over 2 degrees of freedom = 7; t(0.975, 2) = 4.303
    spread = Spread.of([1.0, 2.0, 6.0])
    assert spread.mean == 3.0
    assert spread.deviation == pytest.approx(math.sqrt(7))
    assert spread.half_width == pytest.approx(4.303 * math.sqrt(7 / 3))
    assert Spread.of([1.0, 3.0]).half_width == pytest.approx(12.706 * math.sqrt(2) / math.sqrt(2))


def test_one_value_has_a_mean_and_no_spread_and_none_has_neither() -> None:
    assert Spread.of([0.5]) == Spread(1, 0.5, None)
    assert Spread.of([0.5]).half_width is None
    assert Spread.of([]) == Spread(0, None, None)


@pytest.mark.parametrize(
    ("differences", "expects", "expected"),
    [
        ([0.02, 0.03, 0.04], "higher", "shown"),  # mean 0.03, half width 4.303 * 0.01 / sqrt(3) = 0.0248
        ([0.02, 0.03, 0.04], "lower", "contradicted"),
        ([-0.02, -0.03, -0.04], "lower", "shown"),
        ([-0.02, -0.03, -0.04], "higher", "contradicted"),
        ([0.01, 0.03, 0.05], "higher", "not shown"),  # half width 0.0497: all of one sign is not enough
        ([0.01, 0.03, 0.05], "lower", "not shown"),
        ([0.03, 0.03, 0.03], "higher", "shown"),
        ([0.0, 0.0, 0.0], "higher", "equal"),
        ([0.5], "higher", "one seed"),
        ([], "higher", "not measured"),
        ([0.02, 0.03], "higher", "not shown"),  # 12.706 * 0.00707 / sqrt(2) = 0.0635: two seeds say little
    ],
)
def test_the_verdict_follows_the_rule(differences: list[float], expects: str, expected: str) -> None:
    assert verdict(differences, expects) == expected


def test_differences_are_paired_by_seed_and_only_over_seeds_that_both_have() -> None:
    runs = {
        "a": {0: {"x": 0.9}, 1: {"x": 0.5}, 2: {}, 4: {"x": 0.3}},
        "b": {1: {"x": 0.25}, 0: {"x": 0.4}, 2: {"x": 0.1}, 3: {"x": 9.0}},
    }
    (claim,) = claims_of({"c": {"variant": "a", "against": "b", "expects": {"x": "higher"}}}, runs)
    assert claim.differences == {0: 0.5, 1: 0.25}


def test_ablation_writes_the_verdicts_and_the_means(tmp_path: Path) -> None:
    ablation(*prepare(tmp_path))
    written = json.loads((tmp_path / "table" / "stages.json").read_text())
    accuracy, wer, bleu = written["claims"]
    # differences -0.20, -0.21, -0.19: mean -0.20, deviation 0.01, half width 0.0248
    assert accuracy["differences"] == {"0": pytest.approx(-0.2), "1": pytest.approx(-0.21), "2": pytest.approx(-0.19)}
    assert (accuracy["mean"], accuracy["half_width"]) == (pytest.approx(-0.2), pytest.approx(4.303 * 0.01 / math.sqrt(3)))
    assert [claim["verdict"] for claim in (accuracy, wer, bleu)] == ["shown", "not shown", "not measured"]
    assert written["metrics"]["accuracy"]["base"] == {
        "num_seeds": 3,
        "mean": pytest.approx(0.85),
        "deviation": pytest.approx(0.05),
    }
    assert written["runs"]["bare"]["1"] == {"accuracy": 0.59, "wer": 0.15}
    page = (tmp_path / "table" / "stages.md").read_text()
    row = "| bare is worse (`bare` - `base`) | +2.1 points | `accuracy` | lower | -0.200 ± 0.025 | -0.200, -0.210, -0.190 |"
    assert f"{row} **shown** |" in page
    assert "|  |  | `wer` | higher | " in page  # the same claim
    assert "| share of right answers (`accuracy`) | 0.850 ± 0.050 | 0.650 ± 0.056 |" in page  # 0.05, 0.06, 0.01: sqrt(0.0062 / 2)
    assert "| BLEU (`bleu`) | - | - |" in page
    assert json.loads((tmp_path / "table" / "stage.json").read_text())["metrics"]["bare.accuracy"] == "shown"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("variant: bare", "variant: bra", "comparisons.bare.variant: takes has no 'bra'; known: bare, base"),
        ("accuracy: lower", "accurcy: lower", "comparisons.bare.expects: metrics has no 'accurcy'; did you mean 'accuracy'?"),
        ("accuracy: lower", "accuracy: less", "comparisons.bare.expects.accuracy: 'less'; give higher or lower"),
        ("title: bare", "titel: bare", "comparisons.bare.titel: unknown key; did you mean 'title'?"),
        ('base_0: ""', 'base_a: /x, base_0: ""', "takes.base_a: expected VARIANT_SEED, as in base_0"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, problem: str) -> None:
    path, overrides = prepare(tmp_path, RECIPE.replace(old, new, 1))
    with pytest.raises(RecipeError) as caught:
        ablation(path, overrides)
    assert problem in str(caught.value)
    assert not (tmp_path / "table").exists()


def test_an_evaluation_without_results_is_named(tmp_path: Path) -> None:
    path, overrides = prepare(tmp_path)
    (tmp_path / "bare_1" / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"bare_1/results\.json: no results; run the evaluation first"):
        ablation(path, overrides)
