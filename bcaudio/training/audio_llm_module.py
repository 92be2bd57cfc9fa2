"""The audio LLM in every stage: text LLM, stage 1, stage 2, SFT differ only in recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.checkpoint import load_state
from bcaudio.data.batch import Item, PackedBatch
from bcaudio.data.sequence import IGNORE, SequenceBuilder
from bcaudio.data.tasks import segments_of
from bcaudio.inference.generate import Generator, Prompt
from bcaudio.losses.code_cross_entropy import code_cross_entropy
from bcaudio.losses.token_cross_entropy import token_cross_entropy
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.text.tokenizer import TextTokenizer
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.stage import StageModule


class AudioLLMModule(StageModule):
    """Text loss through the LM head, audio loss through the heads of every level (paper section 3.3).

    Args:
        model: AudioLLM; losses: weights for `text` and, unless the model is text only, `audio`.
        tokenizer: folder of the text tokenizer, copied beside the exported weights.
        level_weights: weight of each codebook level in the audio loss; empty weighs all alike.
        audio_embedding_from: stage folder of the audio tokenizer; the embedding tables then start as its codebooks seen through
            its LLM adapter (`adapter.safetensors`), which this text LLM already reads. The paper starts them at random.

    Raises:
        ValueError: the recipe's `audio_pad_id` or vocabulary does not fit the text tokenizer.
    """

    def __init__(
        self,
        model: AudioLLM,
        optimizer: AdamWCosine,
        losses: WeightedSum,
        tokenizer: str,
        level_weights: Sequence[float] = (),
        audio_embedding_from: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        self.text_tokenizer = TextTokenizer(tokenizer)
        _check_tokenizer(model, self.text_tokenizer)
        if audio_embedding_from is not None:
            _start_audio_embedding(model, Path(audio_embedding_from))
        self.builder = SequenceBuilder(
            self.text_tokenizer, model.codebook_sizes, audio_as="codes" if model.codebook_sizes else "text"
        )
        self.generator = Generator(model, self.text_tokenizer.special)
        self.level_weights = list(level_weights) or [1.0] * len(model.codebook_sizes)

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        total, terms = self.losses(self._terms(batch))
        self.log_terms("train", {"loss": total, **terms}, batch.size)
        return total

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        total, terms = self.losses(self._terms(batch))
        self.log_terms("val", {"loss": total, **terms}, batch.size)

    def _terms(self, batch: PackedBatch) -> dict[str, Tensor]:
        hidden = self.model(batch.input_ids, codes=batch.codes, position_ids=batch.position_ids).hidden
        terms = {"text": token_cross_entropy(hidden, self.model.llm.get_output_embeddings().weight, batch.labels)}
        if self.model.codebook_sizes:
            at = (batch.audio_labels[..., 0] != IGNORE).nonzero(as_tuple=True)
            targets = batch.audio_labels[at]
            logits = self.model.audio_logits(hidden[at], targets)
            terms["audio"], _ = code_cross_entropy(logits, targets, self.level_weights)
        return terms

    @torch.no_grad()
    def transcribe(self, batch: PackedBatch) -> list[tuple[str, str, str, str, str]]:
        """(key, hypothesis, reference, language of the reference, task) of every item whose first paid segment is text."""
        asked = [(item, reference_of(item)) for item in batch.items]
        asked = [(item, reference) for item, reference in asked if reference is not None]
        prompts = [Prompt(*self.builder.prompt(segments_of(item.task, item.sample))) for item, _ in asked]
        answers = self.generator.generate_text_batch(prompts, max_new_tokens=48) if prompts else []
        return [
            (item.sample.key, self.text_tokenizer.decode(answer), reference, language_of(item), item.task)
            for (item, reference), answer in zip(asked, answers, strict=True)
        ]


def _check_tokenizer(model: AudioLLM, tokenizer: TextTokenizer) -> None:
    if model.audio_pad_id != tokenizer.special.audio_pad:
        raise ValueError(
            f"model.audio_pad_id is {model.audio_pad_id}, but {tokenizer.file} gives the audio pad id "
            f"{tokenizer.special.audio_pad}; set that in the recipe"
        )
    vocab_size = model.llm.get_input_embeddings().num_embeddings
    if vocab_size < len(tokenizer):
        raise ValueError(
            f"the LLM has {vocab_size} text embeddings, {tokenizer.file} {len(tokenizer)} tokens; raise vocab_size in the recipe"
        )


@torch.no_grad()
def _start_audio_embedding(model: AudioLLM, folder: Path) -> None:
    adapter, state = load_file(folder / "adapter.safetensors"), load_state(folder)
    bias = adapter["bias"] / len(model.codebook_sizes)
    for level, table in enumerate(model.audio_embedding.tables):
        entries = state[f"bridge.vq_list.{level}.codebook.embed"] @ adapter["weight"].T + bias
        if entries.shape != table.weight[:-1].shape:
            raise ValueError(
                f"{folder}: codebook {level} gives embeddings {tuple(entries.shape)}, the recipe has "
                f"{tuple(table.weight[:-1].shape)}; use the tokenizer and text LLM this recipe was written for"
            )
        table.weight[:-1] = entries


def reference_of(item: Item) -> str | None:
    """What a text-answering task must say; None when the first thing it pays for is audio."""
    first = next((segment for segment in segments_of(item.task, item.sample) if segment.train), None)
    return first.text if first is not None and first.modality == "text" else None


def language_of(item: Item) -> str:
    """Language of the reference."""
    translated = item.task in ("s2tt", "text_translate")
    return item.sample.target_language if translated and item.sample.target_language else item.sample.language
