"""Variants of a system over seeds: means, spreads, paired differences, and a verdict for every claim.

Recipe: `{name, out, takes: {VARIANT_SEED: <folder of an evaluation>, ...}, metrics, comparisons}`
Run: `bcaudio ablation RECIPE`, or as the last stage of a pipeline (recipes/ablations/stages.yaml)
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.errors import RecipeError, did_you_mean
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import read_json, stage_record, write_atomic

KEYS = frozenset({"extends", "name", "paper", "seed", "threads", "takes", "out", "metrics", "comparisons"})
COMPARISON_KEYS = frozenset({"title", "paper", "variant", "against", "expects"})
# 97.5 % points of Student's t for 1 to 9 degrees of freedom; beyond ten seeds the last one, which is on the safe side.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
RULE = (
    "A claim is judged on the differences between variants of the same seed (same first weights; same order of data where the "
    "mixture is the same). *Shown*: the 95 % interval of their mean (Student's t) lies wholly on the claimed side of zero. "
    "*Contradicted*: wholly on the other side. *Equal*: every difference is zero. *Not shown*: zero lies in the interval, and "
    "nothing else that lies in it is excluded. One seed gives no verdict. The rule was fixed before the runs. With nothing "
    "behind a claim, it still gives a verdict on one in twenty."
)

Runs = Mapping[str, Mapping[int, Mapping[str, float]]]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (None for one value) over seeds."""

    num_seeds: int
    mean: float | None
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        mean = statistics.fmean(values) if values else None
        return cls(len(values), mean, statistics.stdev(values) if len(values) > 1 else None)

    @property
    def half_width(self) -> float | None:
        """Half the 95 % interval of the mean; None for one seed."""
        if self.deviation is None:
            return None
        return T_975[min(self.num_seeds - 1, len(T_975)) - 1] * self.deviation / math.sqrt(self.num_seeds)


@dataclass(frozen=True)
class Claim:
    """What one metric says about one comparison.

    Args:
        comparison, title, paper: as the recipe says.
        metric: key of the evaluation's results.
        variant, against: their names; a difference is variant minus against.
        expects: `higher` or `lower`: what is claimed of the variant.
        differences: seed -> difference, for the seeds that both have.
        verdict: `shown`, `contradicted`, `equal`, `not shown`, `one seed` or `not measured`.
    """

    comparison: str
    title: str
    paper: str
    metric: str
    variant: str
    against: str
    expects: str
    differences: Mapping[int, float]
    verdict: str

    @property
    def spread(self) -> Spread:
        return Spread.of(list(self.differences.values()))


def verdict(differences: Sequence[float], expects: str) -> str:
    """The verdict on a claim by the rule that RULE states, from one difference per seed."""
    spread = Spread.of(differences)
    if spread.mean is None:
        return "not measured"
    if spread.half_width is None:
        return "one seed"
    if not any(differences):
        return "equal"
    signed = spread.mean if expects == "higher" else -spread.mean
    return "shown" if signed > spread.half_width else "contradicted" if -signed > spread.half_width else "not shown"


def claims_of(comparisons: Mapping[str, Mapping[str, Any]], runs: Runs) -> list[Claim]:
    """One Claim per comparison and expected metric, in the recipe's order."""
    claims = []
    for name, said in comparisons.items():
        first, second = runs[said["variant"]], runs[said["against"]]
        for metric, expects in said["expects"].items():
            differences = {
                seed: first[seed][metric] - second[seed][metric]
                for seed in sorted(first.keys() & second.keys())
                if metric in first[seed] and metric in second[seed]
            }
            judged = verdict(list(differences.values()), expects)
            texts = (said.get("title", name), said.get("paper", ""), metric, said["variant"], said["against"], expects)
            claims.append(Claim(name, *texts, differences, judged))
    return claims


def ablation(path: str | Path, overrides: Sequence[str] = ()) -> None:
    """Compare the evaluations that a recipe takes; write `<out>/stages.md` and `<out>/stages.json`.

    Recipe: `takes` (VARIANT_SEED -> folder with a results.json), `metrics` (key of the results -> what it means), `comparisons`
    (name -> title, paper, variant, against, expects: metric -> `higher` or `lower`).

    Args:
        path: the recipe; overrides: dotted `key=value`.

    Raises:
        RecipeError: one line for each thing that does not fit. FileNotFoundError: a folder without results.
    """
    recipe = load_recipe(path, overrides)
    check_recipe(recipe, path, KEYS, {})
    folders = _folders(recipe.get("takes") or {}, path)
    if problems := [f"{path}: {problem}" for problem in _problems(recipe, folders)]:
        raise RecipeError(problems)
    metrics, out = recipe["metrics"], Path(recipe["out"])
    with stage_record(out, recipe) as record:
        runs = {
            variant: {seed: _results(folder, metrics) for seed, folder in sorted(by_seed.items())}
            for variant, by_seed in folders.items()
        }
        claims = claims_of(recipe["comparisons"], runs)
        content = {
            "rule": RULE,
            "claims": [{**asdict(claim), "mean": claim.spread.mean, "half_width": claim.spread.half_width} for claim in claims],
            "metrics": {
                metric: {variant: asdict(Spread.of(_values(runs[variant], metric))) for variant in runs} for metric in metrics
            },
            "runs": runs,
        }
        write_atomic(out / "stages.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        write_atomic(out / "stages.md", markdown(claims, runs, metrics))
        record.add(metrics={f"{claim.comparison}.{claim.metric}": claim.verdict for claim in claims})
    print((out / "stages.md").read_text(encoding="utf-8"))


def markdown(claims: Sequence[Claim], runs: Runs, metrics: Mapping[str, str]) -> str:
    """The claims with their verdicts, then every metric of every variant, as mean ± standard deviation over seeds."""
    lines = ["## Verdicts", "", RULE, ""]
    repeats = [False, *(claim.comparison == before.comparison for before, claim in pairwise(claims))][: len(claims)]
    lines += _table(
        ["claim", "the paper", "metric", "claimed", "mean difference", "by seed", "verdict"],
        (
            [
                *(("", "") if repeated else (f"{claim.title} (`{claim.variant}` - `{claim.against}`)", claim.paper or "-")),
                f"`{claim.metric}`",
                claim.expects,
                _plus_minus(claim.spread.mean, claim.spread.half_width, sign="+"),
                ", ".join(f"{value:+.3f}" for value in claim.differences.values()) or "-",
                f"**{claim.verdict}**",
            ]
            for claim, repeated in zip(claims, repeats, strict=True)
        ),
    )
    lines += ["", "Mean difference ± half of its 95 % interval.", "", "## Means", ""]
    spreads = {metric: {variant: Spread.of(_values(runs[variant], metric)) for variant in runs} for metric in metrics}
    lines += _table(
        ["metric", *(f"`{variant}` ({len(runs[variant])} seeds)" for variant in runs)],
        (
            [f"{meaning} (`{metric}`)", *(_plus_minus(spread.mean, spread.deviation) for spread in spreads[metric].values())]
            for metric, meaning in metrics.items()
        ),
    )
    return "\n".join([*lines, "", "Mean ± standard deviation over seeds.", ""])


def _folders(takes: Mapping[str, str], path: str | Path) -> dict[str, dict[int, Path]]:
    """variant -> seed -> folder, from names like `base_0`."""
    folders: dict[str, dict[int, Path]] = {}
    for name, folder in takes.items():
        variant, _, seed = str(name).rpartition("_")
        if not variant or not seed.isdecimal():
            raise RecipeError(f"{path}: takes.{name}: expected VARIANT_SEED, as in base_0")
        folders.setdefault(variant, {})[int(seed)] = Path(folder)
    return folders


def _problems(recipe: Mapping[str, Any], variants: Mapping[str, Any]) -> Iterator[str]:
    for name, said in recipe["comparisons"].items():
        where = f"comparisons.{name}"
        yield from (
            f"{where}.{key}: unknown key{did_you_mean(str(key), COMPARISON_KEYS)}" for key in said.keys() - COMPARISON_KEYS
        )
        for role in ("variant", "against"):
            if said.get(role) not in variants:
                yield f"{where}.{role}: takes has no {said.get(role)!r}{did_you_mean(str(said.get(role)), variants)}"
        if not said.get("expects"):
            yield f"{where}.expects: expected a mapping from a metric to higher or lower"
        for metric, expects in (said.get("expects") or {}).items():
            if metric not in recipe["metrics"]:
                yield f"{where}.expects: metrics has no {metric!r}{did_you_mean(metric, recipe['metrics'])}"
            if expects not in ("higher", "lower"):
                yield f"{where}.expects.{metric}: {expects!r}; give higher or lower"


def _results(folder: Path, metrics: Mapping[str, str]) -> dict[str, float]:
    """The metrics that this evaluation has; one that was not run is absent."""
    results = read_json(folder / "results.json").get("results")
    if not results:
        raise FileNotFoundError(f"{folder / 'results.json'}: no results; run the evaluation first")
    values = {metric: results.get(metric, {}).get("value") for metric in metrics}
    return {metric: float(value) for metric, value in values.items() if value is not None and math.isfinite(value)}


def _values(by_seed: Mapping[int, Mapping[str, float]], metric: str) -> list[float]:
    return [values[metric] for values in by_seed.values() if metric in values]


def _plus_minus(mean: float | None, spread: float | None, sign: str = "") -> str:
    if mean is None:
        return "-"
    return f"{mean:{sign}.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
