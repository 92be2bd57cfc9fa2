"""The text tokenizer: a Hugging Face `tokenizer.json` with the special tokens of this project."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from bcaudio.text.special_tokens import NAMES, SpecialIds

HANZI = r"[\u4e00-\u9fff]"


class TextTokenizer:
    """Text to ids and back.

    Args:
        path: a Hugging Face folder with `tokenizer.json`, or that file.

    Raises:
        FileNotFoundError: no tokenizer.json there.
        ValueError: the tokenizer lacks one of the project's special tokens.
    """

    def __init__(self, path: str | Path) -> None:
        file = Path(path)
        file = file / "tokenizer.json" if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}; give a folder that holds tokenizer.json")
        self.file = file
        self._tokenizer = Tokenizer.from_file(str(file))
        self.special = SpecialIds.read(self._tokenizer.token_to_id, str(file))

    def __len__(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """Ids of ordinary text. Names of special tokens inside it stay ordinary text, so that data cannot forge them."""
        for name in NAMES.values():
            text = text.replace(name, name.replace("<", "< "))
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def token(self, token_id: int) -> str:
        """One token as readable text (special tokens by name), for reports."""
        text = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return text or self._tokenizer.id_to_token(token_id)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE as in Qwen2.5, but hanzi stay single tokens and any other text gets a leading space.

    Both keep a small vocabulary regular: a word has one id wherever it stands.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Prepend(" "), normalizers.Replace(Regex(f"^ (?={HANZI})"), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(HANZI), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(NAMES.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
