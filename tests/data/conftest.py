from pathlib import Path

import pytest

from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer


@pytest.fixture(scope="session")
def text_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    file: Path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["one two three four seven", "三加四等于几"] * 5, vocab_size=320).save(str(file))
    return TextTokenizer(file)
