"""The loss masks that the report draws, against sequences worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcaudio.data.schema import Sample, Span
from bcaudio.data.shards import write_shards
from bcaudio.evaluation.masks import LossMasks
from bcaudio.text.tokenizer import train_tokenizer

SIZES = [4, 4]


@pytest.fixture(scope="module")
def text_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["one two three", "transcribe:"] * 5, vocab_size=320).save(str(folder / "tokenizer.json"))
    return folder


def sample(key: str, *texts: str, num_codes: tuple[int, ...] = ()) -> Sample:
    spans = tuple(Span(text, 0.1 * i, 0.1 * i + 0.1, "narrator") for i, text in enumerate(texts))
    codes = np.ones((sum(num_codes), 2), dtype=np.int16) if num_codes else None
    return Sample(key, "numbers", "test", "en", "m1", " ".join(texts), spans, duration_s=0.1 * len(texts),
                  span_num_codes=num_codes, codes=codes)  # fmt: skip


def shards(folder: Path, *samples: Sample) -> str:
    sound = np.zeros(2400 * len(samples[0].spans), dtype=np.float32)
    write_shards([(one, sound) for one in samples], folder / "shards", "numbers-test", 10, {})
    return str(folder / "shards" / "*.tar")


def masks(text_tokenizer: Path, task: str, tars: str) -> dict[str, Any]:
    (example,) = LossMasks(str(text_tokenizer), SIZES, {task: tars}).examples()
    assert example["task"] == task
    return example


def drawn(example: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """(text, kind, paid) of every token, the pieces of the prompt joined."""
    tokens = [(token["text"].strip(), token["kind"], token["paid"]) for token in example["tokens"]]
    assert all(token["num"] == 1 for token in example["tokens"])
    start = next(i for i, (_, kind, _) in enumerate(tokens) if kind != "text")
    text = "".join(text for text, _, _ in tokens[:start])
    assert len({paid for _, _, paid in tokens[:start]}) == 1
    return [(text, "text", tokens[0][2]), *tokens[start:]]


def test_asr_pays_for_the_transcript_and_the_end_alone(text_tokenizer: Path, tmp_path: Path) -> None:
    example = masks(text_tokenizer, "asr", shards(tmp_path, sample("a", "one two", num_codes=(2,))))
    assert drawn(example) == [
        ("transcribe:", "text", False),
        ("<audio_start_baichuan>", "special", False),
        ("♪", "audio", False),
        ("♪", "audio", False),
        ("<audio_end_baichuan>", "special", False),
        ("one", "text", True),
        ("two", "text", True),
        ("<|endoftext|>", "special", True),
    ]


def test_tts_pays_for_the_start_every_frame_its_end_and_the_end_of_text(text_tokenizer: Path, tmp_path: Path) -> None:
    example = masks(text_tokenizer, "tts", shards(tmp_path, sample("a", "one", num_codes=(2,))))
    assert drawn(example) == [
        ("one", "text", False),
        ("<audiogen_start_baichuan>", "special", True),
        ("♪", "audio", True),
        ("♪", "audio", True),
        ("<audiogen_end_baichuan>", "special", True),
        ("<|endoftext|>", "special", True),
    ]


def test_interleaved_speech_pays_for_all_but_the_first_text(text_tokenizer: Path, tmp_path: Path) -> None:
    example = masks(text_tokenizer, "itts", shards(tmp_path, sample("a", "one", "two", num_codes=(1, 1))))
    assert [(text, paid) for text, _, paid in drawn(example)] == [
        ("one", False),
        ("<audiogen_start_baichuan>", True),
        ("♪", True),
        ("<audiogen_end_baichuan>", True),
        ("two", True),
        ("<audiogen_start_baichuan>", True),
        ("♪", True),
        ("<audiogen_end_baichuan>", True),
        ("<|endoftext|>", True),
    ]


def test_the_shortest_sample_of_two_codes_or_more_is_shown(text_tokenizer: Path, tmp_path: Path) -> None:
    tars = shards(tmp_path, *(sample(f"n-{n}", "one", num_codes=(n,)) for n in (4, 1, 2, 3)))
    assert masks(text_tokenizer, "asr", tars)["key"] == "n-2"


def test_shards_without_codes_show_their_first_text(text_tokenizer: Path, tmp_path: Path) -> None:
    example = masks(text_tokenizer, "text_repeat", shards(tmp_path, sample("a", "one"), sample("b", "two")))
    assert example["key"] == "a"
    assert drawn(example) == [
        ("transcribe:one", "text", False),
        ("<C_A>", "special", False),
        ("one", "text", True),
        ("<|endoftext|>", "special", True),
    ]
