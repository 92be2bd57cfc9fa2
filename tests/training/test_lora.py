"""LoRA: which parameters learn, what is merged, what is refused."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from bcaudio.checkpoint import tensor_sha256
from bcaudio.models.text_llm import causal_lm
from bcaudio.strategies.sharding import sha256_of, whole_tensors
from bcaudio.training.lora import LoRA, plain_name

TARGETS = [r"llm\.model\.layers\..*\.self_attn\.(q|k|v|o)_proj"]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
    model = nn.Module()
    model.llm = causal_lm({"model_type": "qwen2", "num_key_value_heads": 1, "tie_word_embeddings": False, **sizes})
    model.head = nn.Linear(16, 4)
    return model


def adapted(**options: object) -> tuple[nn.Module, LoRA]:
    """The model with adapters that are not 0 any more."""
    pytest.importorskip("peft")
    model, lora = tiny(), LoRA(TARGETS, rank=2, alpha=6, **options)
    lora.apply(model, [r"head\..*"])
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return model, lora


def test_adapters_and_what_trainable_names_learn_and_nothing_else() -> None:
    model, _ = adapted()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    layers = [f"llm.model.layers.{layer}.self_attn.{part}_proj" for layer in (0, 1) for part in "qkvo"]
    assert learning == {"head.weight", "head.bias"} | {f"{n}.lora_{m}.default.weight" for n in layers for m in "AB"}
    assert model.llm.model.layers[0].self_attn.q_proj.lora_A.default.weight.shape == (2, 16)


@pytest.mark.parametrize("trainable", [None, []])
def test_without_patterns_adapters_alone_learn(trainable: list[str] | None) -> None:
    pytest.importorskip("peft")
    model = tiny()
    LoRA([r"llm\.model\.layers\.1\.mlp\.up_proj"], rank=3).apply(model, trainable)
    learning = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    up = "llm.model.layers.1.mlp.up_proj"
    assert learning == {f"{up}.lora_A.default.weight": (3, 16), f"{up}.lora_B.default.weight": (24, 3)}


def test_a_new_adapter_changes_nothing() -> None:
    pytest.importorskip("peft")
    model, ids = tiny().eval(), torch.arange(6)[None]
    before = model.llm(ids).logits
    LoRA(TARGETS, rank=2).apply(model, None)
    assert torch.equal(model.eval().llm(ids).logits, before)


def test_merged_weights_have_the_plain_names_and_give_the_outputs_of_the_model_with_adapters() -> None:
    (model, lora), ids = adapted(), torch.arange(6)[None]
    merged = {name: tensor.tensor() for name, tensor in lora.merged(whole_tensors(model)).items()}
    plain = tiny()
    untouched = plain.llm(ids).logits
    assert merged.keys() == plain.state_dict().keys()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain.eval().llm(ids).logits, model.eval().llm(ids).logits, atol=1e-5, rtol=0)
    assert (plain.llm(ids).logits - untouched).abs().max() > 0.01
    layer = model.llm.model.layers[1].self_attn.v_proj
    by_hand = layer.base_layer.weight + 3.0 * layer.lora_B.default.weight @ layer.lora_A.default.weight  # alpha 6 / rank 2
    torch.testing.assert_close(merged["llm.model.layers.1.self_attn.v_proj.weight"], by_hand)
    layer.merge()  # peft's own
    torch.testing.assert_close(merged["llm.model.layers.1.self_attn.v_proj.weight"], layer.base_layer.weight)


def test_the_weights_beneath_keep_names_and_hash() -> None:
    model, _ = adapted()
    tensors = whole_tensors(model)
    frozen = {plain_name(n): tensors[n] for n, p in model.named_parameters() if not p.requires_grad}
    assert sha256_of(frozen) == tensor_sha256({n: p for n, p in tiny().named_parameters() if n.startswith("llm.")})


@pytest.mark.parametrize(
    ("targets", "trainable", "message"),
    [
        ([*TARGETS, r"llm\.model\.layers\..*\.attention"], None, r"attention' matches no layer .* are llm\.model\.layers\.0"),
        ([r"llm\.lm_head"], None, r"'llm\\\\\.lm_head' matches no layer that can have an adapter"),
        ([r"llm\.model\.norm"], None, "matches no layer that can have an adapter"),
        (TARGETS, [r"llm\..*"], r"lora: llm\.model\.layers\.0\.self_attn\.q_proj is a target, and `trainable` lets"),
        (TARGETS, [r"haed\..*"], "trainable: .* matches no parameter"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: list[str], trainable: list[str] | None, message: str) -> None:
    pytest.importorskip("peft")
    with pytest.raises(ValueError, match=message):
        LoRA(targets, rank=2).apply(tiny(), trainable)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": []}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="lora: rank is"):
        LoRA(**{"targets": TARGETS, **wrong})


def test_without_peft_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"^lora: needs the package peft; pip install bcaudio\[lora\]$"):
        LoRA(TARGETS).apply(tiny(), None)
