import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.evaluate import evaluate
from bcaudio.evaluation import inferring
from bcaudio.inference.item import Item


class Answers:
    """Answers every question with the text that was set for its key, and counts how often it is asked."""

    def __init__(self) -> None:
        self.texts, self.asked, self.placed = {"a": "one two", "b": "free"}, [], []

    def answer_text(self, items: list[Item], task: str) -> list[str]:
        self.asked += [item.id for item in items]
        return [self.texts[item.id] for item in items]

    def answer_text_from_text(self, items: list[Item], task: str) -> list[str]:
        return [item.sample.answer or "" for item in items]

    def use_audio_llm(self, folder: str) -> None:
        self.placed.append(folder)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Answers:
    answers = Answers()
    monkeypatch.setattr(inferring, "build", lambda node, where="": answers)
    return answers


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., str]:
    """Writes shards of two samples and a recipe with the given bars; gives its path."""
    samples = [
        Sample(key, "numbers", "test", "en", "v", text, (Span(text, 0.0, 0.5, "user"),), answer="x", duration_s=0.5)
        for key, text in (("a", "one two"), ("b", "three"))
    ]
    write_shards([(sample, np.zeros(12000, dtype=np.float32)) for sample in samples], tmp_path / "shards", "numbers-test", 9, {})

    def write(**changes: Any) -> str:
        tars = f"{tmp_path}/shards/*.tar"
        content = {
            "name": "evaluate", "seed": 3, "threads": 1, "out": str(tmp_path / "out"), "results": str(tmp_path / "results.json"),
            "system": {
                "_target_": "bcaudio.inference.system.System", "tokenizer": "t", "audio_llm": "runs/sft", "text_tokenizer": "x",
            },
            "benchmarks": {
                "asr": {"_target_": "bcaudio.evaluation.asr.SpeechRecognition", "shards": tars, "language": "en"},
                "human": {"_target_": "bcaudio.evaluation.human.HumanDigits", "shards": f"{tmp_path}/prompts/*.tar"},
                "kept": {
                    "_target_": "bcaudio.evaluation.retention.Retention", "shards": tars, "stage": "stage1",
                    "audio_llm": "runs/stage1", "tasks": ["aqa"],
                },
            },
            "bars": {"asr.en.wer": "<= 0.4", "retention.text_accuracy.stage1": ">= 1"},
            **changes,
        }  # fmt: skip
        path = tmp_path / "evaluate.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return write


def test_results_hold_values_counts_bars_conditions_and_what_was_not_run(
    recipe: Callable[..., str], system: Answers, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert evaluate(recipe(), []) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads((tmp_path / "out" / "results.json").read_text())
    entry = found["results"]["asr.en.wer"]
    assert entry["value"] == pytest.approx(1 / 3)
    assert (entry["errors"], entry["reference_words"], entry["utterances"], entry["bar"], entry["holds"]) == (
        1,
        3,
        2,
        "<= 0.4",
        True,
    )
    assert found["bars"]["asr.en.wer"] == {"bar": "<= 0.4", "limit": 0.4, "value": pytest.approx(1 / 3), "holds": True}
    assert found["conditions"]["seed"] == 3
    assert found["conditions"]["versions"]["jiwer"].startswith("4")
    assert "no such tar" in found["not_run"]["human"]
    assert found["results"]["not run: human"]["value"] is None
    assert "not run  human" in capsys.readouterr().out
    assert [json.loads(line)["hypothesis"] for line in (tmp_path / "out/outputs/asr.jsonl").read_text().splitlines()] == [
        "one two",
        "free",
    ]
    assert json.loads((tmp_path / "out" / "stage.json").read_text())["status"] == "done"
    assert json.loads((tmp_path / "out" / "examples.json").read_text()) == {"audio": [], "mels": []}


def test_a_bar_that_does_not_hold_gives_exit_code_1_and_so_does_a_result_nobody_gave(
    recipe: Callable[..., str], system: Answers
) -> None:
    assert evaluate(recipe(bars={"asr.en.wer": "<= 0.3"})) == 1
    assert evaluate(recipe(bars={"human.digits.wer": "<= 0.3"})) == 1


def test_the_audio_llm_of_a_stage_is_put_in_place_and_the_systems_own_comes_back(
    recipe: Callable[..., str], system: Answers, tmp_path: Path
) -> None:
    path = Path(recipe())
    content = yaml.safe_load(path.read_text())
    content["benchmarks"]["again"] = {**content["benchmarks"]["asr"], "name": "asr2"}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    evaluate(str(path))
    assert system.placed == ["runs/stage1", "runs/sft"]


def test_finished_outputs_are_scored_again_without_asking_also_after_a_change_of_bars(
    recipe: Callable[..., str], system: Answers, tmp_path: Path
) -> None:
    evaluate(recipe())
    assert sorted(system.asked) == ["a", "b"]
    evaluate(recipe())
    evaluate(recipe(bars={"asr.en.wer": "<= 0.5"}))
    assert (tmp_path / "out.stale-1").is_dir()
    assert len(system.asked) == 2
    evaluate(recipe(seed=4))
    assert len(system.asked) == 4


def test_two_benchmarks_with_one_result_and_a_bad_bar_are_refused(
    recipe: Callable[..., str], system: Answers, tmp_path: Path
) -> None:
    path = Path(recipe())
    content = yaml.safe_load(path.read_text())
    content["benchmarks"]["again"] = content["benchmarks"]["asr"]
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ValueError, match=r"benchmarks\.again: its result asr\.en\.wer"):
        evaluate(str(path))
    with pytest.raises(ValueError, match=r"bars\.asr\.en\.wer"):
        evaluate(recipe(bars={"asr.en.wer": "good"}))


def test_a_suite_of_which_nothing_could_be_run_has_not_succeeded(recipe: Callable[..., str], system: Answers) -> None:
    benchmarks = {"human": {"_target_": "bcaudio.evaluation.human.HumanDigits", "shards": "nowhere/*.tar"}}
    assert evaluate(recipe(benchmarks=benchmarks, bars={}), []) == 1
