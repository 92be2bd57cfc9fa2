"""Trains the text tokenizer of a world whose text LLM is trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bcaudio.data.tasks import PROMPTS
from bcaudio.recipe.record import Progress
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer
from data_prep.engine import Engine


class TrainTextTokenizer:
    """`text.txt` -> `tokenizer.json` in the stage folder.

    Args:
        text: file with one text per line.
        vocab_size: upper bound of the vocabulary, special tokens included.
    """

    def __init__(self, text: str, vocab_size: int) -> None:
        self.text, self.vocab_size = Path(text), vocab_size

    def run(self, out: Path, seed: int, progress: Progress, engine: Engine | None = None) -> dict[str, Any]:
        """Train and save; one task, which needs no engine.

        Raises:
            FileNotFoundError: no such text.
        """
        if not self.text.is_file():
            raise FileNotFoundError(f"{self.text}: no training text for the tokenizer; run the prepare stage first")
        lines = self.text.read_text(encoding="utf-8").splitlines()
        file = out / "tokenizer.json"
        train_tokenizer([*lines, *list(PROMPTS.values()) * 20], self.vocab_size).save(str(file))
        progress.step(1)
        return {"num_texts": len(lines), "vocab_size": len(TextTokenizer(file))}
