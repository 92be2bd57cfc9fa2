"""Benchmarks during training: the figures of `bcaudio evaluate` on the same weights, on one rank and on two."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bcaudio.callbacks.benchmarks import BenchmarkCallback
from bcaudio.checkpoint import save_model
from bcaudio.evaluate import evaluate
from bcaudio.evaluation.benchmark import Examples, Item, ItemError, NotRunError, Output
from bcaudio.recipe.build import build
from tests.callbacks.test_intelligence import DIM, SIZES, fit, folder  # noqa: F401 (a fixture)

LLM = {"model_type": "qwen2", "vocab_size": 330, "num_key_value_heads": 1, "initializer_range": 0.3, "hidden_size": DIM,
       "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}  # fmt: skip
FIGURES = {"text.perplexity", "choice.text.accuracy", "choice.speech.accuracy", "choice.speech_to_speech.accuracy",
           "aqa.text.accuracy", "aqa.speech_to_text.accuracy"}  # fmt: skip


def nodes(shards: Path) -> dict[str, Any]:
    given = {"shards": str(shards / "choice-test-*.tar"), "batch_size": 2}
    return {
        "text": {"_target_": "bcaudio.evaluation.perplexity.TextPerplexity", **given},
        "choice": {
            "_target_": "bcaudio.evaluation.choice.Choice", "modes": ["text", "speech", "speech_to_speech"], **given,
        },
        "aqa": {
            "_target_": "bcaudio.evaluation.question_answering.QuestionAnswering", "modes": ["text", "speech_to_text"], **given,
        },
    }  # fmt: skip


def callback(shards: Path, **options: Any) -> BenchmarkCallback:
    return BenchmarkCallback({name: build(node) for name, node in nodes(shards).items()}, **options)


def test_figures_are_those_of_the_command_on_the_saved_model(tmp_path: Path, folder: Path) -> None:  # noqa: F811
    asked = callback(folder)
    trainer = fit(tmp_path / "fit", folder, asked, lr=0.05)
    model = trainer.lightning_module.model
    save_model(tmp_path / "stage", model, {"codebook_sizes": SIZES})
    head = {"_target_": "bcaudio.nn.depth_transformer.DepthTransformer", "dim": DIM, "codebook_sizes": SIZES, "num_layers": 1,
            "head_dim": 16}  # fmt: skip
    node = {"_target_": "bcaudio.models.audio_llm.AudioLLM", "codebook_sizes": SIZES, "audio_pad_id": model.audio_pad_id,
            "llm": {"_target_": "bcaudio.models.text_llm.causal_lm", "config": LLM}, "head": head}  # fmt: skip
    (tmp_path / "stage" / "recipe.yaml").write_text(yaml.safe_dump({"model": node}))
    system = {"_target_": "bcaudio.inference.system.System", "tokenizer": None, "audio_llm": str(tmp_path / "stage"),
              "text_tokenizer": str(folder)}  # fmt: skip
    recipe = {"name": "suite", "seed": 0, "out": str(tmp_path / "out"), "system": system, "benchmarks": nodes(folder)}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(recipe))
    assert evaluate(tmp_path / "suite.yaml") == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert asked.values.keys() == rows.keys() == FIGURES
    assert asked.values == {key: row["value"] for key, row in rows.items()}
    for key, entry in asked.results.items():
        assert entry == {name: rows[key][name] for name in entry}
        assert entry["num_items"] == 5


def test_two_ranks_find_what_one_finds(tmp_path: Path, folder: Path, run_ranks: Any) -> None:  # noqa: F811
    alone = callback(folder)
    fit(tmp_path / "alone", folder, alone)

    def rank_fit(rank: int) -> None:
        both = callback(folder)
        fit(tmp_path / "both", folder, both, num_ranks=2)
        (tmp_path / f"rank{rank}.json").write_text(json.dumps([both.values, both.results]))

    ended = run_ranks(rank_fit)
    assert ended.codes == [0, 0], ended.errors
    for rank in (0, 1):
        values, results = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert values == alone.values
        assert results == alone.results
    assert len((tmp_path / "both" / "logs" / "benchmark.jsonl").read_text().splitlines()) == 1


def test_every_n_steps_is_counted_in_steps_and_leaves_mode_and_randomness_alone(tmp_path: Path, folder: Path) -> None:  # noqa: F811
    asked = callback(folder, every_n_steps=2, folder=str(tmp_path / "figures"))
    trainer = fit(tmp_path, folder, asked, steps=5)
    lines = (tmp_path / "figures" / "benchmark.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4]
    assert {f"benchmark/{key}" for key in FIGURES} <= trainer.callback_metrics.keys()
    module, state = trainer.lightning_module.train(), torch.get_rng_state()
    asked.ask(trainer, module)
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)


class Picky:
    """Refuses an item in one mode, and cannot speak; gives the number of what it was asked."""

    audio_llm, batch_size = None, 2

    def __init__(self, inner: Any) -> None:
        self.inner, self.modes = inner, ["read", "said"]

    def items(self) -> list[Item]:
        items = self.inner.items()
        return [replace(items[0], problem="has no reference"), *items[1:]]

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        if "said" in self.modes:
            raise NotRunError("no voice")
        for item in items:
            if item.id == "story-3":
                raise ItemError(item.id, "is rude")
        assert examples.save("a", "b", torch.zeros(3).numpy(), 16000) == ""
        self.inner.modes = ["text"]
        return self.inner.ask(system, items, examples)

    def score(self, outputs: Sequence[Output], *scoring: Any) -> Any:
        return self.inner.score(outputs, *scoring)


def test_a_failed_item_is_counted_and_a_mode_that_cannot_run_is_left_out_and_said_once(
    tmp_path: Path,
    folder: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = BenchmarkCallback({"picky": Picky(build(nodes(folder)["aqa"]))}, every_n_steps=1)
    fit(tmp_path, folder, asked)
    entry = asked.results["aqa.text.accuracy"]
    assert (entry["total"], entry["num_items"], entry["num_failed"]) == (3, 5, 2)
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert told == ["benchmark: picky said is left out: no voice"]
    assert asked.not_run == {"picky said": "no voice"}


@pytest.mark.parametrize(("benchmarks", "every"), [({}, None), ({"a": None}, 0)])
def test_nothing_to_ask_and_never_are_refused(benchmarks: dict[str, Any], every: int | None) -> None:
    with pytest.raises(ValueError, match=r"BenchmarkCallback: \d benchmarks, every_n_steps"):
        BenchmarkCallback(benchmarks, every_n_steps=every)
