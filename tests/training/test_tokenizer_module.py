"""The audio tokenizer in training: what is frozen, what learns from whom, what is handed over."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from bcaudio.audio.mel import AuxiliaryMel, WhisperLogMel
from bcaudio.checkpoint import save_model
from bcaudio.data.batch import AlignedBatch, AlignedCollate, Item
from bcaudio.data.schema import Sample, Span
from bcaudio.inference.prompt import Prompt
from bcaudio.losses.weighted_sum import WeightedSum
from bcaudio.models.audio_tokenizer import AudioDecoder, AudioTokenizer, TokenizerOutput, VQBridge
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.nn.whisper_encoder import WhisperEncoder
from bcaudio.recipe.build import build
from bcaudio.text.tokenizer import TextTokenizer, train_tokenizer
from bcaudio.training.optim import AdamWCosine
from bcaudio.training.tokenizer_module import TokenizerModule

LLM_DIM = 16


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text tokenizer, and the stage folder of a tiny text-only LLM."""
    folder = tmp_path_factory.mktemp("world")
    train_tokenizer(["one two three", "transcribe:"] * 5, vocab_size=320).save(str(folder / "tokenizer.json"))
    sizes = {"hidden_size": LLM_DIM, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "qwen2", "vocab_size": 330, "num_key_value_heads": 1, "initializer_range": 0.3, **sizes}
    node = {
        "_target_": "bcaudio.models.audio_llm.AudioLLM",
        "llm": {"_target_": "bcaudio.models.text_llm.causal_lm", "config": config},
        "codebook_sizes": [],
        "audio_pad_id": TextTokenizer(folder).special.audio_pad,
    }
    torch.manual_seed(0)
    save_model(folder / "text_llm", build(node), {})
    (folder / "text_llm" / "recipe.yaml").write_text(yaml.safe_dump({"model": node}))
    return folder


def module_of(
    world: Path, weights: tuple[float, float, float] = (1.0, 1.0, 1.0), text_llm: str = "text_llm", **options: object
) -> TokenizerModule:
    torch.manual_seed(0)
    model = AudioTokenizer(
        WhisperLogMel(n_mels=12, max_audio_s=2.0),
        WhisperEncoder(num_mels=12, dim=8, num_layers=1, num_heads=2, ffn_dim=16, max_positions=100),
        VQBridge(ResidualVQ([16, 8], 32, kmeans_init=False), dim=8),
        AudioDecoder(dim=8, num_layers=1, num_heads=2, ffn_dim=16, refiner_channels=[8], max_positions=200),
    )
    losses = WeightedSum(dict(zip(("reconstruction", "text", "commitment"), weights, strict=True)))
    module = TokenizerModule(
        model, AdamWCosine(1e-3, max_steps=10), losses, str(world / text_llm), str(world), AuxiliaryMel(), **options
    )
    module.log_terms = lambda *args: None
    return module


def clips_of(*durations_s: float) -> list[Item]:
    rng, items = np.random.default_rng(0), []
    for number, duration_s in enumerate(durations_s):
        text = ("one", "two three")[number % 2]
        sample = Sample(f"s-{number}", "numbers", "train", "en", "m1", text, (Span(text, 0.0, duration_s, "user"),),
                        duration_s=duration_s)  # fmt: skip
        items.append(Item(sample, "asr", {16000: (rng.normal(0, 3000, round(16000 * duration_s))).astype(np.int16)}))
    return items


def batch_of(world: Path, *durations_s: float) -> AlignedBatch:
    return AlignedCollate(str(world))(clips_of(*durations_s), np.random.default_rng(0))


def test_the_frozen_llm_is_no_part_of_the_module_and_gets_no_gradient(world: Path) -> None:
    module = module_of(world)
    names = [name for name, _ in [*module.named_parameters(), *module.state_dict().items()]]
    assert {name.split(".")[0] for name in names} == {"model", "adapter"}
    before = {name: tensor.clone() for name, tensor in module._llm[0].state_dict().items()}
    module.train()
    module.on_fit_start()
    assert not module._llm[0].training
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch_of(world, 0.5, 0.8), 0).backward()
    optimizer.step()
    assert all(parameter.grad is None for parameter in module._llm[0].parameters())
    after = module._llm[0].state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in module.parameters()}


def test_an_imported_causal_lm_reads_the_features_as_ours_does(world: Path) -> None:
    ours = module_of(world)
    node = yaml.safe_load((world / "text_llm" / "recipe.yaml").read_text())["model"]["llm"]
    save_model(world / "imported", ours._llm[0].llm, {})
    (world / "imported" / "recipe.yaml").write_text(yaml.safe_dump({"model": node}))
    imported = module_of(world, text_llm="imported")
    assert not any(parameter.requires_grad for parameter in imported._llm[0].parameters())
    batch, losses = batch_of(world, 0.5, 0.8), []
    for module in (ours, imported):
        torch.manual_seed(0)
        losses.append(module.eval()._terms(batch, 1.0)[1]["text"])
    assert torch.equal(*losses)


def test_gradients_reach_the_encoder_through_the_llm_loss_alone(world: Path) -> None:
    module = module_of(world, weights=(0.0, 1.0, 0.0)).train()
    module.training_step(batch_of(world, 0.5, 0.8), 0).backward()
    for parameter in (module.model.encoder.conv1.weight, module.model.bridge.gate_proj.weight, module.adapter.weight):
        assert parameter.grad.abs().max() > 0
    assert module.model.decoder.dconv2.conv.weight.grad.abs().max() == 0


def test_text_loss_reads_every_clip_through_its_own_features(world: Path) -> None:
    module = module_of(world).eval()
    together = batch_of(world, 0.5, 0.8, 0.6)
    with torch.no_grad():
        joined = module._terms(together, 1.0)[1]["text"]
        alone, paid = [], []
        for row, clip in enumerate(clips_of(0.5, 0.8, 0.6)):
            single = AlignedCollate(str(world))([clip], np.random.default_rng(0))
            alone.append(module._terms(single, 1.0)[1]["text"])
            paid.append(int((together.text.labels[row] >= 0).sum()))
    # the words and the end of text pay: 2, 3 and 2 tokens
    assert paid == [2, 3, 2]
    torch.testing.assert_close(joined, sum(n * loss for n, loss in zip(paid, alone, strict=True)) / 7, atol=1e-5, rtol=0)


def test_vq_share_is_linear_between_the_points_of_its_schedule(world: Path) -> None:
    module = module_of(world, vq_schedule=[[0, 0.1], [10, 0.3], [20, 1.0]])
    assert [module.vq_share(step) for step in (0, 5, 10, 15, 20, 99)] == pytest.approx([0.1, 0.2, 0.3, 0.65, 1.0, 1.0])
    late = module_of(world, vq_schedule=[[4, 0.2], [8, 1.0]])
    assert [late.vq_share(step) for step in (0, 4, 6)] == pytest.approx([0.2, 0.2, 0.6])
    assert module_of(world).vq_share(0) == 1.0


def test_training_takes_the_share_of_its_step_and_validation_quantises_all(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, shares = module_of(world, vq_schedule=[[0, 0.0], [10, 1.0]]), []
    forward = module.model.forward

    def listening(waveform: Tensor, lengths: Tensor, vq_share: float) -> TokenizerOutput:
        shares.append(vq_share)
        return forward(waveform, lengths, vq_share=vq_share)

    monkeypatch.setattr(module.model, "forward", listening)
    batch = batch_of(world, 0.5)
    module.training_step(AlignedBatch(batch.audio, batch.text, step=4), 0)
    module.validation_step(AlignedBatch(batch.audio, batch.text, step=4), 0)
    assert shares == pytest.approx([0.4, 1.0])


def test_transcribe_gives_a_row_per_clip(world: Path) -> None:
    rows = module_of(world).eval().transcribe(batch_of(world, 0.5, 0.8))
    assert [(key, reference, language, task) for key, _, reference, language, task in rows] == [
        ("s-0", "one", "en", "asr"),
        ("s-1", "two three", "en", "asr"),
    ]


def test_transcribe_reads_up_to_the_answer_and_never_sees_it(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = module_of(world).eval(), []

    def generate(prompts: Sequence[Prompt], max_new_tokens: int) -> list[list[int]]:
        asked.extend(prompts)
        return [[]] * len(prompts)

    monkeypatch.setattr(module.generator, "generate_text_batch", generate)
    batch = batch_of(world, 0.5, 0.8)
    module.transcribe(batch)
    special, asking = module.text_tokenizer.special, module.text_tokenizer.encode("transcribe:")
    # 8000 samples: 51 frames, 26 states, 6 tokens; 12800: 81, 41, 10
    for prompt, num_codes in zip(asked, (6, 10), strict=True):
        heard = [special.audio_start, *[special.audio_pad] * num_codes, special.audio_end]
        assert prompt.input_ids == [*asking, *heard]
        assert prompt.features.shape == (num_codes, LLM_DIM)
    output = module.model(batch.audio.waveforms[16000], batch.audio.lengths[16000])
    torch.testing.assert_close(asked[1].features, module.adapter(output.quantized[1]))


def test_export_writes_the_adapter_that_the_audio_llm_starts_from(world: Path, tmp_path: Path) -> None:
    module = module_of(world)
    module.export(str(tmp_path))
    state = load_file(tmp_path / "adapter.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {"weight": (LLM_DIM, 32), "bias": (LLM_DIM,)}
    assert torch.equal(state["weight"], module.adapter.weight)
    assert torch.equal(state["bias"], module.adapter.bias)
