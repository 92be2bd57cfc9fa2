"""The audio LLM's losses worked out position by position, its warm start, and what it is asked in validation."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from bcaudio.data.batch import Item, PackedBatch, SequenceCollate
from bcaudio.data.schema import Sample, Span
from bcaudio.inference.prompt import Prompt
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer
from bcaudio.training.audio_llm_module import AudioLLMModule, _paid
from bcaudio.training.optim import AdamWCosine

SIZES, DIM = [4, 3], 16
CODES = np.array([[1, 2], [3, 0]], dtype=np.int16)


@pytest.fixture(scope="module")
def text_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["one two three", "一", "transcribe: answer: translate into chinese:"] * 5, vocab_size=320).save(str(file))
    return TextTokenizer(file)


def tiny_llm(tokenizer: TextTokenizer, vocab_size: int = 330) -> AudioLLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = causal_lm({"model_type": "qwen2", "vocab_size": vocab_size, "num_key_value_heads": 1, **sizes})
    model = AudioLLM(llm, SIZES, tokenizer.special.audio_pad, DepthTransformer(DIM, SIZES, num_layers=1, head_dim=16))
    for parameter in model.parameters():  # far from uniform predictions
        parameter.data.normal_(std=0.3)
    return model.eval()


def module_of(tokenizer: TextTokenizer, model: AudioLLM | None = None, **options: object) -> AudioLLMModule:
    losses = WeightedSum({"text": 1.0, "audio": 1.0})
    model = tiny_llm(tokenizer) if model is None else model
    return AudioLLMModule(model, AdamWCosine(1e-3, max_steps=10), losses, str(tokenizer.file), **options)


def item(key: str, task: str) -> Item:
    span = Span("one", 0.0, 0.5, "user")
    sample = Sample(key, "numbers", "test", "en", "m1", "one", (span,), translation="一", target_language="zh", answer="two",
                    duration_s=0.5, span_num_codes=(2,), codes=CODES)  # fmt: skip
    return Item(sample, task)


def batch_of(tokenizer: TextTokenizer, *tasks: str) -> PackedBatch:
    items = [item(f"s-{number}", task) for number, task in enumerate(tasks)]
    return SequenceCollate(str(tokenizer.file), SIZES, row_tokens=64)(items, np.random.default_rng(0))


@torch.no_grad()
def terms_by_hand(tokenizer: TextTokenizer, model: AudioLLM) -> tuple[Tensor, list[Tensor]]:
    """Mean text loss, and mean loss of each level, of one `asr` and one `tts` document, each read alone."""
    special, (one,) = tokenizer.special, tokenizer.encode("one")
    asked = tokenizer.encode("transcribe:")
    heard = [*asked, special.audio_start, special.audio_pad, special.audio_pad, special.audio_end, one, special.eos]
    spoken = [one, special.audiogen_start, special.audio_pad, special.audio_pad, special.audiogen_end, special.eos]
    codes = torch.from_numpy(CODES.astype(np.int64))
    text: list[Tensor] = []

    def states(ids: Sequence[int], paid: Sequence[int]) -> Tensor:
        hidden = model(torch.tensor([ids]), codes).hidden[0]
        likelihood = model.text_logits(hidden).log_softmax(dim=-1)
        text.extend(-likelihood[at - 1, ids[at]] for at in paid)
        return hidden

    states(heard, paid=[len(heard) - 2, len(heard) - 1])  # the transcript and the end of text
    hidden = states(spoken, paid=[1, 5])  # that it will speak, and the end of text; the end of the audio is forced
    frames = torch.cat([codes, torch.tensor([SIZES])])
    likelihoods = [logits.log_softmax(dim=-1) for logits in model.audio_logits(hidden[1:4], frames)]
    levels = [-likelihood[range(3), frames[:, level]].mean() for level, likelihood in enumerate(likelihoods)]
    return torch.stack(text).mean(), levels


@pytest.mark.parametrize("weights", [(), (3.0, 1.0)])
def test_loss_terms_of_a_packed_batch_are_those_worked_out_document_by_document(
    text_tokenizer: TextTokenizer, weights: tuple[float, ...]
) -> None:
    module = module_of(text_tokenizer, level_weights=weights)
    text, levels = terms_by_hand(text_tokenizer, module.model)
    batch = batch_of(text_tokenizer, "asr", "tts")
    assert len(batch.input_ids) == 1, "both documents share a row"
    assert _paid(batch).tolist() == [4, 3]
    terms, sums = module._terms(batch, torch.tensor([4.0, 3.0]))
    for level in range(2):
        torch.testing.assert_close(sums[f"audio_level_{level}"].float(), torch.stack([3 * levels[level], torch.tensor(3.0)]))
    torch.testing.assert_close(terms["text"], text, atol=1e-5, rtol=0)
    first, second = weights or (1.0, 1.0)
    torch.testing.assert_close(terms["audio"], (first * levels[0] + second * levels[1]) / (first + second), atol=1e-5, rtol=0)


def gradients(module: AudioLLMModule, batches: Sequence[PackedBatch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of one step as Lightning makes them, the mean over micro-batches; and what is logged."""
    logged: dict[str, Tensor] = {}
    module.log_terms = lambda split, terms, *args, **kwargs: logged.update(terms)
    module.zero_grad()
    for batch in batches:
        (module.training_step(batch, 0) / len(batches)).backward()
    return {name: parameter.grad.clone() for name, parameter in module.model.named_parameters()}, logged


def test_micro_batches_give_the_gradients_of_the_whole_batch_however_unlike_they_are(text_tokenizer: TextTokenizer) -> None:
    module = module_of(text_tokenizer, level_weights=(3.0, 1.0))
    tasks = [("asr",), ("tts", "tts", "text_answer"), ("text_answer",), ("itts", "asr", "asr")]
    whole, logged = gradients(module, [batch_of(text_tokenizer, *(task for part in tasks for task in part))])
    parts = [batch_of(text_tokenizer, *part) for part in tasks]
    paid = torch.stack([_paid(part) for part in parts]).sum(dim=0)
    parts = [replace(part, micro=micro, num_micro=4, paid=paid) for micro, part in enumerate(parts)]
    ours, ours_logged = gradients(module, parts)
    torch.testing.assert_close(ours, whole, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(ours_logged, logged, atol=1e-6, rtol=0)
    assert set(logged) >= {"loss", "text", "audio", "audio_level_0", "audio_level_1"}
    # the mean of means, which the paid counts replace, is something else
    wrong, _ = gradients(module, [replace(part, micro=0, num_micro=1, paid=None) for part in parts])
    assert (wrong["llm.lm_head.weight"] - whole["llm.lm_head.weight"]).abs().max() > 1e-3


def test_gradient_checkpointing_keeps_less_and_gives_equal_gradients(text_tokenizer: TextTokenizer) -> None:
    batch, found = batch_of(text_tokenizer, "asr", "tts"), {}
    for on in (False, True):
        module = module_of(text_tokenizer, gradient_checkpointing=on)
        kept: list[int] = []

        def note(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        module.train()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = module.model(batch.input_ids, batch.codes, batch.position_ids).hidden
        hidden.sum().backward()
        found[on] = sum(kept), {name: p.grad for name, p in module.model.named_parameters() if p.grad is not None}
    assert found[True][0] < 0.5 * found[False][0]
    torch.testing.assert_close(found[True][1], found[False][1], atol=0, rtol=0)


def write_audio_tokenizer(folder: Path, sizes: Sequence[int] = tuple(SIZES), dim: int = DIM) -> dict[str, Tensor]:
    """Codebooks of width 6 and the adapter to an LLM of width `dim`, as a finished tokenizer stage leaves them."""
    generator = torch.Generator().manual_seed(1)
    books = {
        f"bridge.vq_list.{level}.codebook.embed": torch.randn(size, 6, generator=generator) for level, size in enumerate(sizes)
    }
    adapter = {"weight": torch.randn(dim, 6, generator=generator), "bias": torch.randn(dim, generator=generator)}
    save_file(books, folder / "model.safetensors")
    save_file(adapter, folder / "adapter.safetensors")
    return {**books, **adapter}


def test_warm_start_shows_the_codebooks_through_the_adapter_and_leaves_the_end_row(
    text_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    state, model = write_audio_tokenizer(tmp_path), tiny_llm(text_tokenizer)
    ends = [table.weight[-1].detach().clone() for table in model.audio_embedding.tables]
    module_of(text_tokenizer, model, audio_embedding_from=str(tmp_path))
    for level, (table, end) in enumerate(zip(model.audio_embedding.tables, ends, strict=True)):
        book = state[f"bridge.vq_list.{level}.codebook.embed"]
        torch.testing.assert_close(table.weight[:-1].detach(), book @ state["weight"].T + state["bias"] / 2)
        assert torch.equal(table.weight[-1], end)
    # a frame then starts as what the adapter made of the sum of its entries, which is what the text LLM learned to read
    entries = state["bridge.vq_list.0.codebook.embed"][3] + state["bridge.vq_list.1.codebook.embed"][1]
    frame = model.audio_embedding(torch.tensor([[3, 1]]))[0].detach()
    torch.testing.assert_close(frame, entries @ state["weight"].T + state["bias"])


@pytest.mark.parametrize(
    ("sizes", "dim", "message"),
    [
        ([5, 3], DIM, r"codebook 0 gives embeddings \(5, 16\), the recipe has \(4, 16\)"),
        ([4, 2], DIM, r"codebook 1 gives embeddings \(2, 16\), the recipe has \(3, 16\)"),
        (SIZES, 8, r"codebook 0 gives embeddings \(4, 8\), the recipe has \(4, 16\)"),
    ],
)
def test_warm_start_from_other_sizes_is_refused_with_both_shapes(
    text_tokenizer: TextTokenizer, tmp_path: Path, sizes: list[int], dim: int, message: str
) -> None:
    write_audio_tokenizer(tmp_path, sizes, dim)
    with pytest.raises(ValueError, match=message):
        module_of(text_tokenizer, audio_embedding_from=str(tmp_path))


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused_with_both_numbers(text_tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match=rf"has 100 text embeddings, .* {len(text_tokenizer)} tokens; raise vocab_size"):
        module_of(text_tokenizer, tiny_llm(text_tokenizer, vocab_size=100))


def test_transcribe_asks_exactly_the_items_that_answer_in_text(
    text_tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, asked = module_of(text_tokenizer), []
    answer = text_tokenizer.encode("two three")

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        asked.extend(prompts)
        return [answer] * len(prompts)

    monkeypatch.setattr(module.generator, "generate_text_batch", generate)
    rows = module.transcribe(batch_of(text_tokenizer, "asr", "tts", "s2tt", "audio", "text_answer"))
    assert rows == [
        ("s-0", "two three", "one", "en", "asr"),
        ("s-2", "two three", "一", "zh", "s2tt"),
        ("s-4", "two three", "two", "en", "text_answer"),
    ]
    special = text_tokenizer.special
    assert [prompt.input_ids[-1] for prompt in asked] == [special.audio_end, special.audio_end, special.answer]
    np.testing.assert_array_equal(asked[0].codes, CODES)


def test_transcribe_gives_a_row_per_item_with_the_real_generator_and_none_for_speech_alone(
    text_tokenizer: TextTokenizer,
) -> None:
    module = module_of(text_tokenizer)
    rows = module.transcribe(batch_of(text_tokenizer, "asr", "tts", "aqa"))
    assert [(key, reference, task) for key, _, reference, _, task in rows] == [("s-0", "one", "asr"), ("s-2", "two", "aqa")]
    assert module.transcribe(batch_of(text_tokenizer, "tts")) == []
