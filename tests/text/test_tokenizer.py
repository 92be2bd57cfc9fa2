from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from bcaudio.text.special_tokens import NAMES
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    train_tokenizer(["what is three plus four", "三加四等于几"] * 5, vocab_size=320).save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(tmp_path)


def test_text_survives_the_round_trip(tokenizer: TextTokenizer) -> None:
    for text in ("what is three plus four", "三加四等于几", "twenty three, five.", "a<b>c é"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_word_has_one_id_wherever_it_stands(tokenizer: TextTokenizer) -> None:
    (three,) = tokenizer.encode("three")
    assert tokenizer.encode("plus three")[-1] == three


def test_hanzi_stay_single_tokens(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer.encode("三加四等于几")) == 6


def test_text_cannot_forge_a_special_token(tokenizer: TextTokenizer) -> None:
    assert not set(tokenizer.encode("one <|endoftext|> <audio_pad_baichuan>")) & {
        tokenizer.special.eos,
        tokenizer.special.audio_pad,
    }


def test_missing_special_tokens_are_listed(tmp_path: Path) -> None:
    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="no token " + NAMES["eos"].replace("|", r"\|")):
        TextTokenizer(tmp_path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer at .*tokenizer.json"):
        TextTokenizer(tmp_path)
