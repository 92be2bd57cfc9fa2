"""The audio head and the text -> audio -> text loop against tensors of the published code."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.inference.generate import Generator
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.sampling import SamplingOptions
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.pretrained import llm_config_from_released, llm_from_released
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer

Case = tuple[AudioLLM, dict[str, Tensor], dict[str, Any]]


@pytest.fixture(scope="module")
def case(fixtures: Path) -> Case:
    """The model with the stored weights, all stored tensors, and the JSON beside them."""
    described = json.loads((fixtures / "audio_head.json").read_text())
    config, audio = described["config"], described["config"]["audio_config"]
    tensors = load_file(fixtures / "audio_head.safetensors")
    sizes = audio["vq_config"]["codebook_sizes"]
    head = DepthTransformer(config["hidden_size"], sizes, audio["audio_head_transformer_layers"])
    llm = causal_lm(llm_config_from_released(config))
    model = AudioLLM(llm, sizes, audio["audio_pad_token_id"], head)
    weights = {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}
    model.load_state_dict(llm_from_released(weights, config["num_attention_heads"], config["num_key_value_heads"]), strict=True)
    return model.eval(), tensors, described


@torch.no_grad()
def test_layers_and_logits_match_under_teacher_forcing(case: Case) -> None:
    model, tensors, _ = case
    outputs: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: outputs.append(output[0]))
        for layer in model.audio_head.transformer_layers
    ]
    logits = model.audio_logits(tensors["in.hidden"], tensors["in.codes"])
    for hook in hooks:
        hook.remove()
    assert len(outputs) == 2
    assert len(logits) == 4
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors[f"out.layer{index}"], atol=1e-4, rtol=0)
    for index, level in enumerate(logits):
        torch.testing.assert_close(level, tensors[f"out.logits_{index}"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_greedy_codes_match(case: Case) -> None:
    model, tensors, _ = case
    codes = model.audio_head.greedy(tensors["in.hidden"], model.audio_embedding.tables)
    assert torch.equal(codes, tensors["out.greedy.codes"])


@pytest.mark.parametrize("name", ["loop_eos", "loop_maxlen"])
@pytest.mark.parametrize("num_rows", [1, 2])
def test_text_audio_text_loop_gives_the_published_integers(case: Case, name: str, num_rows: int) -> None:
    model, tensors, described = case
    audio, loop = described["config"]["audio_config"], described["meta"]["loop"]
    special = SimpleNamespace(
        eos=0, **{key.removesuffix("_token_id"): value for key, value in audio.items() if key.endswith("_token_id")}
    )
    generator = Generator(model, special)
    prompt = Prompt(tensors[f"in.{name}.prompt_ids"][0].tolist(), tensors[f"in.{name}.prompt_codes"].numpy())
    # a second, longer row in the batch (so that the first is left-padded) must change nothing
    state = generator.start([prompt, Prompt([5, 6, 7] * 7)][:num_rows])

    def options(step: str) -> SamplingOptions:
        return SamplingOptions(greedy=True, repetition_penalty=loop[f"{step}_repetition_penalty"])

    text1 = generator.generate_text(state, loop["text1_new_tokens"], (), options("text1"))
    for ids in state.ids:
        ids[-1] = special.audiogen_start
    codes = generator.generate_audio(state, loop["audio_max_new_tokens"], options("audio"))
    for ids in state.ids:
        ids[-1] = special.audiogen_end
    after_audio = list(state.ids[0])
    text2 = generator.generate_text(state, loop["text2_new_tokens"], (), options("text2"))

    expected = tensors[f"out.{name}.audio_codes"][0]
    end = model.codebook_sizes[0]
    num_frames = int((expected[:, 0] == end).nonzero()[0])
    assert num_frames == {"loop_eos": len(expected) - 2, "loop_maxlen": len(expected) - 1}[name]
    assert text1[0] == tensors[f"out.{name}.text1"][0].tolist()
    assert codes[0].tolist() == expected[:num_frames].tolist()
    assert after_audio == tensors[f"out.{name}.sequence_after_audio"][0].tolist()
    assert text2[0] == tensors[f"out.{name}.text2"][0].tolist()
