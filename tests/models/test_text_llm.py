"""Backbones: whatever the architecture, AudioLLM without audio is the bare model, and packed documents stay apart."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm

VOCAB, PAD, SIZES = 40, 39, [5, 4, 3]
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES = ["qwen2", "qwen3", "qwen3_moe", "llama", "mistral", "gemma", "olmo2", "gpt_neox"]
every_architecture = pytest.mark.parametrize("model_type", ARCHITECTURES)


def build(model_type: str, **options: object) -> AudioLLM:
    """A tiny audio LLM whose weights are large enough that attention matters."""
    torch.manual_seed(0)
    llm = causal_lm({"model_type": model_type, **SMALL, **options})
    for parameter in llm.parameters():
        parameter.data.normal_(std=0.3)
    return AudioLLM(llm, SIZES, PAD).eval()


def random_text(*shape: int) -> Tensor:
    """Ids without an audio pad."""
    return torch.randint(0, PAD, shape, generator=torch.Generator().manual_seed(1))


def documents() -> tuple[list[Tensor], list[Tensor]]:
    """Three documents and the codes of their audio pads."""
    ids = [random_text(7), random_text(5), random_text(9)]
    ids[0][2:5] = PAD
    ids[2][[0, 8]] = PAD
    draws = torch.Generator().manual_seed(2)
    return ids, [torch.randint(0, 4, (int((document == PAD).sum()), len(SIZES)), generator=draws) for document in ids]


def restarting(ids: list[Tensor]) -> Tensor:
    """Positions [1, T] of packed documents."""
    return torch.cat([torch.arange(len(document)) for document in ids])[None]


@torch.no_grad()
def bare(llm: PreTrainedModel, **inputs: Tensor) -> Tensor:
    """Logits of the model itself."""
    return llm(**inputs).logits


@every_architecture
@torch.no_grad()
def test_text_logits_are_those_of_the_bare_model_bit_for_bit(model_type: str) -> None:
    model, ids = build(model_type), random_text(3, 11)
    assert torch.equal(model.text_logits(model(ids).hidden), bare(model.llm, input_ids=ids))


@every_architecture
@torch.no_grad()
def test_text_logits_of_left_padded_rows_are_those_of_the_bare_model_bit_for_bit(model_type: str) -> None:
    model, ids = build(model_type), random_text(3, 11)
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :9] = 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    logits = model.text_logits(model(ids, attention_mask=mask, position_ids=positions).hidden)
    assert torch.equal(logits, bare(model.llm, input_ids=ids, attention_mask=mask, position_ids=positions))
    alone = bare(model.llm, input_ids=ids[1:2, 4:])
    torch.testing.assert_close(logits[1:2, 4:], alone, atol=1e-4, rtol=0)


@torch.no_grad()
def test_text_logits_of_tied_embeddings_are_those_of_the_bare_model_bit_for_bit() -> None:
    model, ids = build("qwen2", tie_word_embeddings=True), random_text(2, 11)
    assert model.llm.get_output_embeddings().weight is model.llm.get_input_embeddings().weight
    assert torch.equal(model.text_logits(model(ids).hidden), bare(model.llm, input_ids=ids))


@every_architecture
@torch.no_grad()
def test_a_packed_row_equals_its_documents_alone(model_type: str) -> None:
    model, (ids, codes) = build(model_type), documents()
    alone = torch.cat([model(document[None], rows).hidden[0] for document, rows in zip(ids, codes, strict=True)])
    packed = model(torch.cat(ids)[None], torch.cat(codes), position_ids=restarting(ids)).hidden[0]
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=0)


@every_architecture
@torch.no_grad()
def test_another_document_in_the_row_changes_nothing_even_if_the_backbone_is_configured_to_cache(model_type: str) -> None:
    model, (ids, codes) = build(model_type), documents()
    model.llm.config.use_cache = True
    positions, other = restarting(ids), [(ids[0] + 1) % PAD, *ids[1:]]
    other[0][2:5] = PAD
    first, second = (model(torch.cat(row)[None], torch.cat(codes), position_ids=positions).hidden[0] for row in (ids, other))
    torch.testing.assert_close(first[len(ids[0]) :], second[len(ids[0]) :], atol=1e-5, rtol=0)
    # the trap: with its cache on, the backbone itself ignores the restarts and reads the document before
    embeds = [model.embed(torch.cat(row)[None], torch.cat(codes)) for row in (ids, other)]
    leaking = [
        model.llm.base_model(inputs_embeds=embedded, position_ids=positions, use_cache=True).last_hidden_state[0]
        for embedded in embeds
    ]
    assert (leaking[0] - leaking[1])[len(ids[0]) :].abs().max() > 0.01


@every_architecture
def test_the_key_value_cache_is_off(model_type: str) -> None:
    assert build(model_type).llm.config.use_cache is False


def test_vocabulary_comes_from_the_tokenizer_and_may_be_larger_but_not_smaller() -> None:
    sizes = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    assert causal_lm({"model_type": "qwen2", **sizes}, tokenizer_size=20).get_input_embeddings().num_embeddings == 20
    assert causal_lm({"model_type": "qwen2", **SMALL}, tokenizer_size=20).get_input_embeddings().num_embeddings == VOCAB
    with pytest.raises(ValueError, match="vocab_size is 40, but the tokenizer has 41 ids"):
        causal_lm({"model_type": "qwen2", **SMALL}, tokenizer_size=41)


@pytest.mark.parametrize(
    ("model_type", "message"),
    [
        ("qwen22", "model_type is 'qwen22', which is no causal LM of transformers .*; did you mean 'qwen2'"),
        ("clip", "model_type is 'clip', which is no causal LM"),
        (None, "no model_type; name one"),
    ],
)
def test_another_kind_of_model_is_refused_in_one_short_line(model_type: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        causal_lm({"model_type": model_type, **SMALL})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
