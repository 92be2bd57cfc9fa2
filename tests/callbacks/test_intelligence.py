"""The probe on a real, tiny audio LLM: figures, modality gaps, alarms; one rank and two."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from bcaudio.callbacks.intelligence import IntelligenceAlarmError, IntelligenceWatch, gaps
from bcaudio.data.batch import Item, PackedBatch, SequenceCollate
from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.evaluation.choice import Choice
from bcaudio.evaluation.perplexity import TextPerplexity
from bcaudio.evaluation.question_answering import QuestionAnswering
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer
from bcaudio.training.audio_llm_module import AudioLLMModule
from bcaudio.training.optim import AdamWCosine

SIZES, DIM = [4, 3], 16
WORDS = ["one", "two", "three", "four"]


def story(number: int) -> Sample:
    """A question with its answer that is also a choice: one span read or heard, then a right and a wrong ending."""
    texts = [WORDS[number % 4], WORDS[(number + 1) % 4], WORDS[(number + 2) % 4]]
    roles = ("user", "right", "wrong")
    spans = tuple(Span(text, float(i), i + 1.0, role) for i, (text, role) in enumerate(zip(texts, roles, strict=True)))
    codes = np.random.default_rng(number).integers(0, 3, (6, 2)).astype(np.int16)
    return Sample(f"story-{number}", "choice", "test", "en", "m1", " ".join(texts), spans, answer=texts[1], duration_s=3.0,
                  span_num_codes=(2, 2, 2), codes=codes)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of five stories and a tokenizer."""
    made = tmp_path_factory.mktemp("world")
    train_tokenizer([" ".join(WORDS), "answer:"] * 5, vocab_size=320).save(str(made / "tokenizer.json"))
    write_shards([(story(n), np.zeros(72000, np.float32)) for n in range(5)], made, "choice-test", 10, {})
    return made


def module_of(folder: Path, lr: float = 0.0) -> AudioLLMModule:
    torch.manual_seed(0)
    tokenizer = TextTokenizer(folder)
    sizes = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = causal_lm({"model_type": "qwen2", "vocab_size": 330, "num_key_value_heads": 1, "initializer_range": 0.3, **sizes})
    model = AudioLLM(llm, SIZES, tokenizer.special.audio_pad, DepthTransformer(DIM, SIZES, num_layers=1, head_dim=16))
    return AudioLLMModule(
        model, AdamWCosine(lr, max_steps=10, warmup_steps=0), WeightedSum({"text": 1.0, "audio": 1.0}), str(folder)
    )


def benchmarks(folder: Path) -> dict[str, Any]:
    shards = str(folder / "choice-test-*.tar")
    return {
        "text": TextPerplexity(shards),
        "choice": Choice(shards, batch_size=2),
        "aqa": QuestionAnswering(shards, modes=["text", "speech_to_text", "speech_to_speech"]),
    }


def batches(folder: Path, count: int) -> list[PackedBatch]:
    made = SequenceCollate(str(folder), SIZES, row_tokens=64)([Item(story(9), "aqa")], np.random.default_rng(0))
    return [replace(made, step=step) for step in range(count)]


def fit(out: Path, folder: Path, watch: IntelligenceWatch, lr: float = 0.0, steps: int = 2, num_ranks: int = 1) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(default_root_dir=out, max_epochs=1, accelerator="cpu", devices=num_ranks, callbacks=[watch],
                        strategy="ddp_find_unused_parameters_true" if num_ranks > 1 else "auto", val_check_interval=2,
                        check_val_every_n_epoch=None, use_distributed_sampler=False, num_sanity_val_steps=0, **quiet)  # fmt: skip
    loaders = [DataLoader(batches(folder, count), batch_size=None) for count in (steps, 1)]
    trainer.fit(module_of(folder, lr), *loaders)
    return trainer


def test_every_ability_is_asked_at_the_start_and_at_validation_and_logged_with_its_gap(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    watch = IntelligenceWatch(benchmarks(folder))
    trainer = fit(tmp_path, folder, watch)
    expected = {"text.perplexity", "choice.text.accuracy", "choice.speech.accuracy", "gap.choice.speech.accuracy",
                "aqa.text.accuracy", "aqa.speech_to_text.accuracy", "gap.aqa.speech_to_text.accuracy"}  # fmt: skip
    assert watch.values.keys() == expected
    assert watch.values == watch.start  # nothing is learned at a rate of 0
    assert {name for name in trainer.callback_metrics if name.startswith("probe/")} == {f"probe/{key}" for key in expected}
    assert trainer.callback_metrics["probe/text.perplexity"] == pytest.approx(watch.values["text.perplexity"])
    assert [watch.results[key]["total"] for key in ("choice.text.accuracy", "aqa.speech_to_text.accuracy")] == [5, 5]
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert len(told) == 1
    assert told[0].startswith("probe: aqa speech_to_speech is left out: the system has no auditor; name a trained CTCRecognizer")
    entries = [json.loads(line) for line in (tmp_path / "logs" / "probe.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [0, 2]


def test_the_probe_sees_the_model_in_training_and_disturbs_neither_mode_nor_randomness(tmp_path: Path, folder: Path) -> None:
    watch = IntelligenceWatch({"text": TextPerplexity(str(folder / "*.tar"))})
    trainer = fit(tmp_path, folder, watch, lr=0.01)
    assert watch.values["text.perplexity"] != watch.start["text.perplexity"]
    module = trainer.lightning_module
    module.train()
    state = torch.get_rng_state()
    watch.ask(trainer, module)
    assert module.training
    assert module.model.llm.training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_rise_beyond_the_bound_stops_the_run_with_value_start_and_bound(tmp_path: Path, folder: Path) -> None:
    watch = IntelligenceWatch(benchmarks(folder), alarm={"text.perplexity": {"max_rise": 5.0}})
    with pytest.raises(
        IntelligenceAlarmError, match=r"text\.perplexity is [\d.e+]+ \(it was [\d.]+ at the start\), above its bound"
    ):
        fit(tmp_path, folder, watch, lr=1.0)
    assert watch.values["text.perplexity"] > watch.start["text.perplexity"] + 5


def test_a_warning_says_so_and_goes_on(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    watch = IntelligenceWatch(benchmarks(folder), alarm={"text.perplexity": {"max_rise": 5.0, "action": "warn"}})
    fit(tmp_path, folder, watch, lr=1.0)
    assert "ALARM: text.perplexity is" in capsys.readouterr().out


def test_a_model_that_is_below_the_bound_from_the_start_does_not_start(tmp_path: Path, folder: Path) -> None:
    watch = IntelligenceWatch(benchmarks(folder), alarm={"aqa.text.accuracy": {"min": 1.01}})
    with pytest.raises(IntelligenceAlarmError, match=r"aqa\.text\.accuracy is .*below its bound 1\.01 \(min 1\.01\)"):
        fit(tmp_path, folder, watch)


@pytest.mark.parametrize(
    ("bounds", "value", "crossed"),
    [
        ({"max_drop": 0.05}, 0.751, False),
        ({"max_drop": 0.05}, 0.749, True),
        ({"min": 0.7}, 0.71, False),
        ({"min": 0.7}, 0.69, True),
        ({"max": 0.9}, 0.91, True),
        ({"max_rise": 0.05}, 0.86, True),
        ({"max_rise": 0.05, "min": 0.1}, 0.84, False),
        ({"min": 0.0}, float("nan"), True),
    ],
)
def test_bounds_are_absolute_or_against_the_start(folder: Path, bounds: dict[str, float], value: float, crossed: bool) -> None:
    watch = IntelligenceWatch(benchmarks(folder), alarm={"a": bounds})
    watch.load_state_dict({"start": {"a": 0.8}})  # as a resumed run has it
    watch.values = {"a": value}
    assert bool(watch._crossed("a", bounds)) is crossed


def test_an_alarm_on_a_figure_that_no_benchmark_gives_is_refused(tmp_path: Path, folder: Path) -> None:
    watch = IntelligenceWatch(benchmarks(folder), alarm={"aqa.txt.accuracy": {"min": 0.5}})
    with pytest.raises(ValueError, match=r"alarm on aqa\.txt\.accuracy, but the benchmarks give only aqa\.speech_to_text"):
        fit(tmp_path, folder, watch)


@pytest.mark.parametrize("bounds", [{}, {"minimum": 0.5}, {"min": 0.5, "action": "shout"}])
def test_an_alarm_that_says_nothing_is_refused(folder: Path, bounds: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"alarm\.a is"):
        IntelligenceWatch(benchmarks(folder), alarm={"a": bounds})


def test_gaps_are_the_text_modes_figure_less_the_speech_modes() -> None:
    values = {"aqa.text.accuracy": 0.9, "aqa.speech_to_text.accuracy": 0.7, "aqa.speech_to_speech.accuracy": 0.4,
              "aqa.speech_to_speech.text_accuracy": 0.6, "text.perplexity": 8.0, "choice.speech.accuracy": 0.5}  # fmt: skip
    assert gaps(values) == {
        "gap.aqa.speech_to_text.accuracy": pytest.approx(0.2),
        "gap.aqa.speech_to_speech.accuracy": pytest.approx(0.5),
        "gap.aqa.speech_to_speech.text_accuracy": pytest.approx(0.3),
    }


def test_two_ranks_share_the_items_and_find_what_one_finds(tmp_path: Path, folder: Path, run_ranks: Any) -> None:
    alone = IntelligenceWatch(benchmarks(folder))
    fit(tmp_path / "alone", folder, alone)

    def rank_fit(rank: int) -> None:
        watch = IntelligenceWatch(benchmarks(folder))
        fit(tmp_path / "both", folder, watch, num_ranks=2)
        (tmp_path / f"rank{rank}.json").write_text(json.dumps([watch.values, watch.results]))

    ended = run_ranks(rank_fit)
    assert ended.codes == [0, 0], ended.errors
    for rank in (0, 1):
        values, results = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert values == pytest.approx(alone.values, rel=1e-5)
        assert results["aqa.text.accuracy"]["total"] == 5
        assert results["text.perplexity"]["tokens"] == alone.results["text.perplexity"]["tokens"]
