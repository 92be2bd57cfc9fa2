import pytest
import torch
from torch import Tensor

from bcaudio.models.audio_llm import AudioEmbedding, AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer

PAD = 9
SIZES = [4, 3]
SMALL = {
    "vocab_size": 12,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def build(model_type: str = "qwen2") -> AudioLLM:
    torch.manual_seed(0)
    llm = causal_lm({"model_type": model_type, **SMALL})
    # the default initialisation is so small that attention hardly matters; a leak must show
    for parameter in llm.parameters():
        parameter.data.normal_(std=0.3)
    return AudioLLM(llm, SIZES, PAD, DepthTransformer(32, SIZES, num_layers=1, head_dim=16)).eval()


@pytest.fixture
def model() -> AudioLLM:
    return build()


def test_audio_embedding_adds_one_row_per_codebook() -> None:
    embedding = AudioEmbedding(codebook_sizes=[2, 2], dim=1)
    embedding.tables[0].weight.data = torch.tensor([[1.0], [2.0], [4.0]])
    embedding.tables[1].weight.data = torch.tensor([[10.0], [20.0], [40.0]])
    torch.testing.assert_close(embedding(torch.tensor([[1, 0], [2, 2]])), torch.tensor([[12.0], [44.0]]))


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_without_audio_the_text_logits_are_those_of_the_bare_model(model_type: str) -> None:
    model = build(model_type)
    input_ids = torch.randint(0, PAD, (2, 7))
    with torch.no_grad():
        assert torch.equal(model.text_logits(model(input_ids).hidden), model.llm(input_ids).logits)


def test_pads_take_the_rows_of_codes_in_row_major_order(model: AudioLLM) -> None:
    input_ids = torch.tensor([[1, PAD, 2, PAD], [PAD, 3, 3, 3]])
    codes = torch.tensor([[0, 1], [2, 2], [4, 3]])
    embedded, text = model.embed(input_ids, codes), model.llm.get_input_embeddings()
    frames = model.audio_embedding(codes)
    torch.testing.assert_close(embedded[0], torch.stack([text.weight[1], frames[0], text.weight[2], frames[1]]))
    torch.testing.assert_close(embedded[1, 0], frames[2])


def test_continuous_features_take_the_place_of_codes_and_get_gradients(model: AudioLLM) -> None:
    features = torch.randn(2, 32, requires_grad=True)
    embedded = model.embed(torch.tensor([[PAD, 1, PAD]]), features=features)
    torch.testing.assert_close(embedded[0, [0, 2]], features)
    embedded.backward(torch.full_like(embedded, 3.0))
    torch.testing.assert_close(features.grad, torch.full((2, 32), 3.0))


@pytest.mark.parametrize(("codes", "number"), [(None, 0), (torch.zeros(3, 2, dtype=torch.long), 3)])
def test_wrong_number_of_frames_is_refused_with_both_numbers(model: AudioLLM, codes: Tensor | None, number: int) -> None:
    with pytest.raises(ValueError, match=f"2 audio pad positions in input_ids, but {number} rows"):
        model.embed(torch.tensor([[PAD, 1, PAD]]), codes)


@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", "llama"])
def test_packed_documents_do_not_see_each_other(model_type: str) -> None:
    model = build(model_type)
    documents = [torch.tensor([1, PAD, 2, 3]), torch.tensor([4, 5, PAD]), torch.tensor([6])]
    codes = torch.tensor([[1, 2], [3, 0]])
    with torch.no_grad():
        alone = [model(ids[None], codes[[index]] if index < 2 else None).hidden[0] for index, ids in enumerate(documents)]
        positions = torch.cat([torch.arange(len(ids)) for ids in documents])
        packed = model(torch.cat(documents)[None], codes, position_ids=positions[None]).hidden[0]
        leaking = model(torch.cat(documents)[None], codes).hidden[0]
    torch.testing.assert_close(packed, torch.cat(alone), atol=1e-5, rtol=0)
    assert (leaking[4:] - packed[4:]).abs().max() > 0.1  # the test can fail


@pytest.mark.parametrize("how", [{"use_cache": True}, {"attention_mask": torch.ones(1, 4, dtype=torch.long)}])
def test_packing_with_a_mask_or_a_cache_is_refused(model: AudioLLM, how: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="would see each other"):
        model(torch.tensor([[1, 2, 3, 4]]), position_ids=torch.tensor([[0, 1, 0, 1]]), **how)


def test_cached_steps_equal_the_whole_sequence(model: AudioLLM) -> None:
    input_ids, codes = torch.tensor([[1, PAD, PAD, 2, PAD]]), torch.tensor([[0, 1], [2, 2], [4, 3]])
    with torch.no_grad():
        whole = model(input_ids, codes).hidden
        first = model(input_ids[:, :3], codes[:2], use_cache=True)
        then = model(input_ids[:, 3:], codes[2:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.hidden, then.hidden], dim=1), whole, atol=1e-5, rtol=0)


def test_a_batch_without_audio_still_reaches_every_audio_parameter(model: AudioLLM) -> None:
    codes = torch.zeros(0, 2, dtype=torch.long)
    hidden = model(torch.tensor([[1, 2, 3]]), codes).hidden
    sum([hidden.sum(), *(level.sum() for level in model.audio_logits(hidden[0, :0], codes))]).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None and "lm_head" not in name] == []


def test_head_of_other_codebooks_is_refused(model: AudioLLM) -> None:
    with pytest.raises(ValueError, match=r"\(4, 4\), but the audio head has \(4, 3\)"):
        AudioLLM(model.llm, [4, 4], PAD, model.audio_head)


def test_causal_lm_takes_its_vocabulary_from_the_tokenizer_and_refuses_a_smaller_one() -> None:
    without = {key: value for key, value in SMALL.items() if key != "vocab_size"}
    assert causal_lm({"model_type": "qwen2", **without}, tokenizer_size=20).config.vocab_size == 20
    with pytest.raises(ValueError, match="vocab_size is 12, but the tokenizer has 20 ids"):
        causal_lm({"model_type": "qwen2", **SMALL}, tokenizer_size=20)
    with pytest.raises(ValueError, match="no model_type"):
        causal_lm(SMALL)
