"""The audio LLM against tensors of the published code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.pretrained.names import llm_config_from_released, llm_from_released, llm_to_released


@pytest.fixture(scope="module")
def case(fixtures: Path) -> tuple[AudioLLM, dict[str, Tensor]]:
    """The model with the stored weights, and all stored tensors."""
    config = json.loads((fixtures / "audio_llm.json").read_text())["config"]
    tensors = load_file(fixtures / "audio_llm.safetensors")
    llm = causal_lm(llm_config_from_released(config))
    audio = config["audio_config"]
    model = AudioLLM(llm, audio["vq_config"]["codebook_sizes"], audio["audio_pad_token_id"])
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    ours = llm_from_released(weights, config["num_attention_heads"], config["num_key_value_heads"])
    model.load_state_dict(ours, strict=True)
    return model.eval(), tensors


@pytest.mark.cases("audio_llm", "in.*.input_ids")
def test_hidden_states_and_logits_match_the_published_code(case: tuple[AudioLLM, dict[str, Tensor]], name: str) -> None:
    model, tensors = case
    inputs = {key: tensors.get(f"in.{name}.{key}") for key in ("input_ids", "audios_tokens", "position_ids", "attention_mask")}
    expected = {key: tensors[f"out.{name}.{key}"] for key in ("inputs_embeds", "last_hidden_state", "logits")}
    with torch.no_grad():
        hidden = model(
            inputs["input_ids"],
            inputs["audios_tokens"],
            position_ids=inputs["position_ids"],
            attention_mask=inputs["attention_mask"],
        ).hidden
        embedded = model.embed(inputs["input_ids"], inputs["audios_tokens"])
    real = torch.ones_like(inputs["input_ids"]) if inputs["attention_mask"] is None else inputs["attention_mask"]
    real = real.bool()
    torch.testing.assert_close(embedded, expected["inputs_embeds"], atol=1e-4, rtol=0)
    torch.testing.assert_close(hidden[real], expected["last_hidden_state"][real], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.text_logits(hidden)[real], expected["logits"][real], atol=1e-4, rtol=0)


@pytest.mark.cases("audio_llm", "in.*.seqlens")
def test_restarting_positions_say_where_the_published_code_ends_its_segments(
    case: tuple[AudioLLM, dict[str, Tensor]], name: str
) -> None:
    tensors = case[1]
    length = tensors[f"in.{name}.input_ids"].shape[1]
    for row, positions in zip(tensors[f"in.{name}.seqlens"].tolist(), tensors[f"in.{name}.position_ids"], strict=True):
        ends = sorted({end for end in row if 0 < end < length} | {length})
        segments = [torch.arange(end - start) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        assert torch.equal(positions, torch.cat(segments))


def test_released_names_survive_the_round_trip(case: tuple[AudioLLM, dict[str, Tensor]]) -> None:
    model, tensors = case
    released = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    back = llm_to_released(model.state_dict())
    assert back.keys() == released.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in released.items())
