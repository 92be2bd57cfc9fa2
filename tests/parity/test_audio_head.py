"""The audio head and the text -> audio -> text loop against tensors of the published code."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.inference import generate
from bcaudio.inference.generate import Generator
from bcaudio.inference.prompt import Prompt
from bcaudio.inference.sampling import SamplingOptions, penalise_repetition
from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.depth_transformer import DepthTransformer
from bcaudio.pretrained.names import llm_config_from_released, llm_from_released

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
    assert len(outputs) == sum(re.fullmatch(r"out\.layer\d+", key) is not None for key in tensors)
    assert len(logits) == sum(re.fullmatch(r"out\.logits_\d+", key) is not None for key in tensors)
    for index, output in enumerate(outputs):
        torch.testing.assert_close(output, tensors[f"out.layer{index}"], atol=1e-4, rtol=0)
    for index, level in enumerate(logits):
        torch.testing.assert_close(level, tensors[f"out.logits_{index}"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_greedy_codes_and_their_margins_match(case: Case) -> None:
    model, tensors, _ = case
    codes = model.audio_head.greedy(tensors["in.hidden"], model.audio_embedding.tables)
    assert torch.equal(codes, tensors["out.greedy.codes"])
    for level, logits in enumerate(model.audio_logits(tensors["in.hidden"], codes)):
        # only level 0 may choose its last class
        margin = lead(logits if level == 0 else logits[:, :-1])
        torch.testing.assert_close(margin, tensors["out.greedy.margin"][:, level], atol=1e-4, rtol=0)


def lead(scores: Tensor) -> Tensor:
    """scores [M, V] -> by how much the best of each row leads [M]."""
    first, second = scores.topk(2, dim=-1).values.unbind(-1)
    return first - second


class Leads:
    """Records how far the chosen class led in row 0, in every choice a `Generator` makes, bans on special ids left aside."""

    def __init__(self, model: AudioLLM, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded: list[float] = []
        self._raw: Tensor | None = None
        monkeypatch.setattr(model, "text_logits", partial(self._text_logits, model.text_logits))
        monkeypatch.setattr(generate, "choose", partial(self._choose, generate.choose))

    def _text_logits(self, text_logits: Callable[[Tensor], Tensor], hidden: Tensor) -> Tensor:
        scores = text_logits(hidden)
        self._raw = scores.clone()
        return scores

    def _choose(self, choose: Callable[..., Tensor], scores: Tensor, seen: Tensor, options: SamplingOptions, rng: None) -> Tensor:
        raw, self._raw = (scores if self._raw is None else self._raw), None
        self.recorded.append(lead(penalise_repetition(raw, seen, options.repetition_penalty))[0].item())
        return choose(scores, seen, options, rng)

    def take(self) -> Tensor:
        """What was recorded since the last call."""
        taken, self.recorded = self.recorded, []
        return torch.tensor(taken)


@pytest.mark.cases("audio_head", "in.*.prompt_ids")
@pytest.mark.parametrize("num_rows", [1, 2])
def test_text_audio_text_loop_gives_the_published_integers_and_leads(
    case: Case, name: str, num_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tensors, described = case
    audio, loop = described["config"]["audio_config"], described["meta"]["loop"]
    special = SimpleNamespace(
        eos=0, **{key.removesuffix("_token_id"): value for key, value in audio.items() if key.endswith("_token_id")}
    )
    generator, leads = Generator(model, special), Leads(model, monkeypatch)
    prompt = Prompt(tensors[f"in.{name}.prompt_ids"][0].tolist(), tensors[f"in.{name}.prompt_codes"].numpy())
    # a second, longer row in the batch (so that the first is left-padded) must change nothing
    words = [token for token in prompt.input_ids if token not in vars(special).values()]
    state = generator.start([prompt, Prompt((words * len(prompt))[: len(prompt) + 8])][:num_rows])

    def options(step: str) -> SamplingOptions:
        return SamplingOptions(greedy=True, repetition_penalty=loop[f"{step}_repetition_penalty"])

    def leads_are(part: str, times: int = 1) -> None:
        """Compare with the stored leads; where the second row went on longer, the first row's later choices mean nothing."""
        expected = tensors[f"out.{name}.{part}"][:, 0]
        torch.testing.assert_close(leads.take()[: len(expected) * times : times], expected, atol=1e-4, rtol=0)

    text1 = generator.generate_text(state, loop["text1_new_tokens"], (), options("text1"))
    leads_are("text1_gap")
    for ids in state.ids:
        ids[-1] = special.audiogen_start
    codes = generator.generate_audio(state, loop["audio_max_new_tokens"], options("audio"))
    leads_are("audio_gap_level0", model.num_codebooks)
    for ids in state.ids:
        ids[-1] = special.audiogen_end
    after_audio = list(state.ids[0])
    text2 = generator.generate_text(state, loop["text2_new_tokens"], (), options("text2"))
    leads_are("text2_gap")

    # the stored codes end with an appended end row; before it stands a frame that chose the end, unless the limit came first
    expected, end = tensors[f"out.{name}.audio_codes"][0], model.codebook_sizes[0]
    ended = bool(expected[-2, 0] == end)
    num_frames = len(expected) - 1 - ended
    assert ended or num_frames == loop["audio_max_new_tokens"]
    assert text1[0] == tensors[f"out.{name}.text1"][0].tolist()
    assert codes[0].tolist() == expected[:num_frames].tolist()
    assert after_audio == tensors[f"out.{name}.sequence_after_audio"][0].tolist()
    assert text2[0] == tensors[f"out.{name}.text2"][0].tolist()
