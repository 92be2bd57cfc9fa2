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
from bcaudio.data.tasks import TASKS, segments_of
from bcaudio.distributed import all_reduce_sum, world_size
from bcaudio.inference.generate import Generator, Prompt
from bcaudio.losses.code_cross_entropy import code_losses, join_levels
from bcaudio.losses.token_cross_entropy import summed_cross_entropy
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
        gradient_checkpointing: keep only the inputs of the LLM's layers and compute the rest again in the backward pass: less
            memory, about a third more work, the same gradients.

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
        gradient_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, optimizer, losses, seed)
        self.text_tokenizer = TextTokenizer(tokenizer)
        _check_tokenizer(model, self.text_tokenizer)
        if audio_embedding_from is not None:
            _start_audio_embedding(model, Path(audio_embedding_from))
        if gradient_checkpointing:
            model.llm.gradient_checkpointing_enable({"use_reentrant": False})
        self.builder = SequenceBuilder(
            self.text_tokenizer, model.codebook_sizes, audio_as="codes" if model.codebook_sizes else "text"
        )
        self.generator = Generator(model, self.text_tokenizer.special)
        self.level_weights = list(level_weights) or [1.0] * len(model.codebook_sizes)

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:
        """This micro-batch's part of the loss of the whole global batch.

        Every term is divided by the number of paid labels (frames) of all ranks' micro-batches of the step, so that the gradients
        are those of one process with all rows, whatever the number of ranks and accumulations.
        """
        share = world_size() * batch.num_micro  # the strategy takes the mean over ranks, Lightning that over micro-batches
        paid = _paid(batch) if batch.paid is None else batch.paid
        if batch.micro == 0:
            self._paid = all_reduce_sum(paid.clone())
            self._sums = {}
        terms, sums = self._terms(batch, (self._paid / share).clamp(min=1 / share).float())
        total, terms = self.losses(terms)
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0) + value
        if batch.micro == batch.num_micro - 1:
            self.log_terms("train", self._report(self._sums), batch.size)
        return total

    def on_validation_epoch_start(self) -> None:
        self._val_sums: dict[str, Tensor] = {}

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:
        _, sums = self._terms(batch, _paid(batch).clamp(min=1).float())
        for name, value in sums.items():
            self._val_sums[name] = self._val_sums.get(name, 0) + value

    def on_validation_epoch_end(self) -> None:
        self.log_terms("val", self._report(self._val_sums), batch_size=1, synced=True)

    def _terms(self, batch: PackedBatch, paid: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms, divided by `paid` [2] (text labels, frames); and sums with counts, for the log."""
        hidden = self.model(batch.input_ids, codes=batch.codes, position_ids=batch.position_ids).hidden
        head = self.model.llm.get_output_embeddings().weight
        text, losses = summed_cross_entropy(hidden, head, batch.labels)
        terms, sums = {"text": text / paid[0]}, _by_task("text", losses, batch, batch.labels != IGNORE)
        if self.model.codebook_sizes:
            is_paid = batch.audio_labels[..., 0] != IGNORE
            at = is_paid.nonzero(as_tuple=True)
            targets = batch.audio_labels[at]
            codes = code_losses(self.model.audio_logits(hidden[at], targets), targets)
            terms["audio"] = join_levels(codes.sum(dim=0) / paid[1], self.level_weights)
            codes = codes.detach().double()
            sums |= _by_task("audio", join_levels(codes, self.level_weights), batch, is_paid)
            for level in range(codes.shape[1]):
                sums[f"audio_level_{level}"] = torch.stack([codes[:, level].sum(), codes.new_tensor(len(codes))])
        return terms, sums

    def _report(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means over all ranks from this rank's sums and counts; the names are the same on every rank."""
        names = ["text"]
        if self.model.codebook_sizes:
            names += ["audio", *(f"audio_level_{level}" for level in range(self.model.num_codebooks))]
        names += [f"{task}.{term}" for task in TASKS for term in ("text", "audio")]
        nothing = torch.zeros(2, dtype=torch.float64, device=self.device)
        table = all_reduce_sum(torch.stack([sums.get(name, nothing) for name in names]))
        seen = (table[:, 1] > 0).tolist()  # one wait for the device, not one per name
        means = {name: row[0] / row[1] for name, row, any_paid in zip(names, table, seen, strict=True) if any_paid}
        means = {name: means.get(name, nothing[0]) for name in self.losses.weights} | means
        total, _ = self.losses({name: means[name] for name in self.losses.weights})
        return {"loss": total, **means}

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


def _paid(batch: PackedBatch) -> Tensor:
    """[2] float64: paid text labels and paid audio frames of one batch."""
    frames = (batch.audio_labels[..., :1] != IGNORE).sum()
    return torch.stack([(batch.labels != IGNORE).sum(), frames]).double()


def _by_task(term: str, losses: Tensor, batch: PackedBatch, is_paid: Tensor) -> dict[str, Tensor]:
    """Sum and count [2] of a term's losses [N], of all and by task; `is_paid` [B, T] has N true entries, row-major."""
    losses = losses.detach().double()
    sums = {term: torch.stack([losses.sum(), losses.new_tensor(len(losses))])}
    if batch.documents is None:
        return sums
    tasks = sorted({item.task for item in batch.items})
    number = torch.tensor([tasks.index(item.task) for item in batch.items], dtype=torch.long, device=losses.device)
    entries = torch.stack([losses, torch.ones_like(losses)], dim=1)
    table = entries.new_zeros(len(tasks), 2).index_add_(0, number[batch.documents[is_paid]], entries)
    return sums | {f"{task}.{term}": row for task, row in zip(tasks, table, strict=True)}


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
