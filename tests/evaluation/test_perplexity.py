"""Perplexity against the model's own probabilities, token by token."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.benchmark import Absent, Examples, Item, ItemError, result
from bcaudio.evaluation.perplexity import TextPerplexity
from bcaudio.inference.generate import Generator
from bcaudio.inference.system import System
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["one two three four"] * 5, vocab_size=320).save(str(folder / "tokenizer.json"))
    tokenizer = TextTokenizer(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = causal_lm({"model_type": "qwen2", "vocab_size": 330, "num_key_value_heads": 1, "initializer_range": 0.3, **sizes})
    model = AudioLLM(llm, (), tokenizer.special.audio_pad).eval()
    system = object.__new__(System)  # of its parts, a text needs only these
    system.text_tokenizer, system.generator, system.audio_llm = tokenizer, Generator(model, tokenizer.special), model
    return system


@torch.no_grad()
def nats_by_hand(system: Any, text: str) -> tuple[float, int]:
    ids = [*system.text_tokenizer.encode(text), system.text_tokenizer.special.eos]
    model = system.audio_llm
    likelihood = model.text_logits(model(torch.tensor([ids])).hidden)[0].double().log_softmax(dim=-1)
    return -sum(float(likelihood[at - 1, ids[at]]) for at in range(1, len(ids))), len(ids) - 1


def test_a_files_lines_are_documents_and_their_tokens_are_summed_before_the_exponent(
    tmp_path: Path, system: Any, examples: Examples
) -> None:
    (tmp_path / "probe.v1.txt").write_text("one two three\n\n  four one\n", encoding="utf-8")
    benchmark = TextPerplexity(file=str(tmp_path / "probe.v1.txt"))
    items = benchmark.items()
    assert [item.sample.text for item in items] == ["one two three", "four one"]
    metric = benchmark.score(benchmark.ask(system, items, examples))["text.perplexity"]
    found = result(metric)
    assert metric.ids == ["line-1", "line-3"]
    (first, num_first), (second, num_second) = (nats_by_hand(system, text) for text in ("one two three", "four one"))
    assert (num_first, num_second) == (3, 2)  # what follows the first word, and the end
    assert found["value"] == pytest.approx(math.exp((first + second) / 5), rel=1e-5)
    assert found["tokens"] == 5
    assert found["bits_per_byte"] == pytest.approx((first + second) / math.log(2) / len("two three" + "one"), rel=1e-5)


def test_long_texts_are_cut_and_limit_thins(tmp_path: Path, system: Any, examples: Examples) -> None:
    (tmp_path / "probe.txt").write_text("one two three four\n" * 4, encoding="utf-8")
    benchmark = TextPerplexity(file=str(tmp_path / "probe.txt"), max_tokens=2, limit=2)
    outputs = benchmark.ask(system, benchmark.items(), examples)
    assert [output["tokens"] for output in outputs] == [2, 2]


def test_shards_or_a_file_but_not_both_or_none(tmp_path: Path) -> None:
    for options in ({}, {"shards": "a.tar", "file": "b.txt"}, {"data": object(), "file": "b.txt"}):
        with pytest.raises(ValueError, match="either shards or file"):
            TextPerplexity(**options)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="has no text in it"):
        TextPerplexity(file=str(tmp_path / "empty.txt")).items()


def test_a_text_without_a_token_is_one_bad_item_and_none_at_all_is_absent(system: Any, examples: Examples) -> None:
    benchmark = TextPerplexity(file="unused.txt")
    items = [
        Item(Sample(key, "x", "test", "en", "", text, (Span(text, 0.0, 0.0, "user"),))) for key, text in (("a", "one"), ("b", ""))
    ]
    with pytest.raises(ItemError, match="b: its text has no token"):
        benchmark.ask(system, items, examples)
    assert [out["id"] for out in benchmark.ask(system, items[:1], examples)] == ["a"]
    assert isinstance(benchmark.score([])["text.perplexity"], Absent)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.txt: no such text file"):
        TextPerplexity(file="nowhere.txt").items()
