"""How well the text LLM still predicts plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bcaudio.data.schema import Sample, Span
from bcaudio.evaluation.benchmark import Examples, Item, Output, Result, as_shards, result, thin
from bcaudio.inference.prompt import Prompt
from bcaudio.metrics.counting import CountingMetric


class Perplexity(CountingMetric):
    """exp(negative log-likelihood / tokens); counts also the bytes of the text, for bits per byte, which no tokenizer changes."""

    higher_is_better = False
    name = "perplexity"

    def __init__(self) -> None:
        super().__init__()
        self.add_count("nats", dtype=torch.float64)
        self.add_count("tokens")
        self.add_count("bytes")

    def update(self, log_likelihood: float, num_tokens: int, num_bytes: int) -> None:
        """Adds one text."""
        self.nats += -log_likelihood
        self.tokens += num_tokens
        self.bytes += num_bytes

    def value(self) -> Tensor:
        """Perplexity per token, float64."""
        if self.count() == 0:
            raise ValueError("Perplexity: no token was scored")
        return (self.nats / self.tokens).exp()

    def count(self) -> int:
        """Tokens."""
        return int(self.tokens)

    def counts(self) -> dict[str, Any]:
        """Nats, tokens, bytes, bits per byte."""
        nats, num_bytes = float(self.nats), int(self.bytes)
        return {"nats": nats, "tokens": int(self.tokens), "bytes": num_bytes, "bits_per_byte": nats / math.log(2) / num_bytes}


class TextPerplexity:
    """`<name>.perplexity` of plain text: of the texts of samples, or of a file's lines, each read alone.

    Args:
        shards: tar files or globs of samples with a text; or
        file: a UTF-8 text file, one document per line; empty lines are passed over.
        name: the first part of the key.
        language, corpus, split: filters of the shards; None keeps all.
        limit: at most so many texts, spread evenly.
        max_tokens: a longer text is cut.
        batch_size: texts per call of the system.
        audio_llm: stage folder of the audio LLM that is asked; None takes the system's own.

    Raises:
        ValueError: both or none of shards and file.
    """

    def __init__(
        self,
        shards: str | Sequence[str] | None = None,
        file: str | None = None,
        name: str = "text",
        language: str | None = None,
        corpus: str | None = None,
        split: str | None = "test",
        limit: int | None = None,
        max_tokens: int = 512,
        batch_size: int = 32,
        audio_llm: str | None = None,
    ) -> None:
        if (shards is None) == (file is None):
            raise ValueError("TextPerplexity: give either shards or file")
        self.shards = None if shards is None else as_shards(shards, language=language, corpus=corpus, limit=limit, split=split)
        self.file, self.name, self.limit, self.max_tokens = file, name, limit, max_tokens
        self.batch_size, self.audio_llm = batch_size, audio_llm

    def items(self) -> list[Item]:
        if self.shards is not None:
            return self.shards.items(self.name)
        lines = Path(self.file or "").read_text(encoding="utf-8").splitlines()
        texts = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
        if not texts:
            raise ValueError(f"{self.name}: {self.file} has no text in it")
        samples = [
            Sample(f"line-{number}", self.name, "test", "und", "", text, (Span(text, 0.0, 0.0, "narrator"),))
            for number, text in texts
        ]
        return thin([Item(None, number, sample) for number, sample in enumerate(samples)], self.limit)  # type: ignore[arg-type]

    def ask(self, system: Any, items: Sequence[Item], examples: Examples) -> list[Output]:
        special, ids = system.text_tokenizer.special, [system.text_tokenizer.encode(item.sample.text) for item in items]
        read = [(item.sample.key, tokens[: self.max_tokens]) for item, tokens in zip(items, ids, strict=True) if tokens]
        # a document's first token is never predicted in training either; its end is
        firsts, rests = [Prompt(tokens[:1]) for _, tokens in read], [Prompt([*tokens[1:], special.eos]) for _, tokens in read]
        scores = system.generator.score(firsts, rests, reduction="sum")
        return [
            {
                "id": key,
                "log_likelihood": float(score),
                "tokens": len(tokens),
                "bytes": max(1, len(system.text_tokenizer.decode(tokens[1:]).encode())),
            }
            for (key, tokens), score in zip(read, scores, strict=True)
        ]

    def score(self, outputs: Sequence[Output]) -> dict[str, Result]:
        metric = Perplexity()
        for output in outputs:
            metric.update(output["log_likelihood"], output["tokens"], output["bytes"])
        return {f"{self.name}.perplexity": result(metric)}
