"""The recipes at the released sizes, built without memory: the published checkpoint's element counts, and what stages train."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bcaudio.checkpoint import init_from, save_model
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.training.freezing import freeze_all_but

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# recipe of a part, prefix of its tensors in our state dict -> elements, persistent buffers included, in the published checkpoint
PARTS = {
    ("audio_llm_7b", "llm.model.embed_tokens."): 544_997_376,
    ("audio_llm_7b", "llm.lm_head."): 544_997_376,
    ("audio_llm_7b", "llm.model.layers."): 6_525_618_176,
    ("audio_llm_7b", "llm.model.norm."): 3_584,
    ("audio_llm_7b", "audio_embedding."): 69_758_976,
    ("audio_llm_7b", "audio_head."): 1_457_144_840,
    ("audio_tokenizer", "encoder."): 636_968_960,
    ("audio_tokenizer", "bridge."): 284_457_216,
    ("audio_tokenizer", "decoder."): 167_587_392,
    ("flow_decoder", ""): 115_059_024,
}
INNER_PARTS = {
    ("audio_tokenizer", "encoder.positional_embedding"): 1_920_000,
    ("audio_tokenizer", "bridge.vq_list."): 199_248_896,
    ("audio_tokenizer", "decoder.positional_embedding"): 3_840_000,
    ("flow_decoder", "prenet."): 44_084_224,
    ("flow_decoder", "prenet.positional_embedding"): 2_560_000,
    ("flow_decoder", "conditional_decoder."): 70_974_800,
    ("audio_llm_7b", "audio_head.transformer_layers."): 1_387_362_816,
    ("audio_llm_7b", "audio_head.heads."): 69_778_440,
    ("audio_llm_7b", "audio_head.headnorm."): 3_584,
}
RELEASED_BUFFERS = 8_320_000
TRAINABLE = {
    "stage1": 1_526_871_560,
    "stage2": 8_052_493_320,
    "sft": 8_052_493_320,
    "tokenizer": 884_004_672,
    "flow": 112_499_024,
    "vocoder": 20_821_295,
}
# what a stage adds to the released architecture: one counter per codebook entry, for the restart of unused ones
IDLE_STEPS = 8192 + 4096 + 2048 + 5 * 1024


# the same recipes with next to no weights, to see what is handed on
SMALL_LLM = [f"model.llm.config.{key}={value}" for key, value in {
    "vocab_size": 16, "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 0,
}.items()] + ["codebook_sizes=[4, 3]", "model.head.dim=32", "model.head.head_dim=16"]  # fmt: skip
SMALL = {
    "stage1": SMALL_LLM,
    "stage2": SMALL_LLM,
    "sft": SMALL_LLM,
    "tokenizer": [
        *("codebook_sizes=[4, 3]", "model.frontend.n_mels=8", "model.encoder.num_mels=8", "model.bridge.quantizer.dim=128"),
        *(f"model.{part}.dim=32" for part in ("encoder", "bridge", "decoder")),
        *(f"model.{part}.{key}=2" for part in ("encoder", "decoder") for key in ("num_layers", "num_heads", "ffn_dim")),
    ],
    "vocoder": ["model.base_channels=8", "model.f0_channels=8"],
}


def recipe_of(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    return load_recipe(RECIPES / f"{name}.yaml", overrides, missing_ok=True)


def on_meta(name: str) -> nn.Module:
    """The model of a recipe, without any memory behind its tensors."""
    with torch.device("meta"):
        model = build(recipe_of(name)["model"])
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    return model


def sizes(model: nn.Module) -> dict[str, int]:
    """Elements of every parameter and persistent buffer."""
    return {name: tensor.numel() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def released() -> dict[str, dict[str, int]]:
    """Elements of every tensor, per recipe of recipes/base."""
    return {name: sizes(on_meta(f"base/{name}")) for name in ("audio_llm_7b", "audio_tokenizer", "flow_decoder", "vocoder")}


@pytest.mark.parametrize(("part", "elements"), [*PARTS.items(), *INNER_PARTS.items()], ids=str)
def test_every_part_has_the_elements_of_the_published_checkpoint(
    released: dict[str, dict[str, int]], part: tuple[str, str], elements: int
) -> None:
    recipe, prefix = part
    assert sum(count for name, count in released[recipe].items() if name.startswith(prefix)) == elements


def test_the_parts_make_the_whole_checkpoint_and_nothing_is_left_over(released: dict[str, dict[str, int]]) -> None:
    assert sum(PARTS.values()) == 10_346_592_920
    whole = [sum(released[name].values()) for name in ("audio_llm_7b", "audio_tokenizer", "flow_decoder")]
    assert sum(whole) == 10_346_592_920
    buffers = sum(
        count for counts in released.values() for name, count in counts.items() if name.endswith("positional_embedding")
    )
    assert buffers == RELEASED_BUFFERS


def test_the_checkpoint_has_its_2022_tensors_once_queries_keys_and_values_are_packed(released: dict[str, dict[str, int]]) -> None:
    names = [name for recipe in ("audio_llm_7b", "audio_tokenizer", "flow_decoder") for name in released[recipe]]
    split = [name for name in names if name.startswith("llm.") and ".self_attn." in name and "o_proj" not in name]
    assert len(split) == 28 * 6
    assert len(names) - len(split) + 28 * 2 == 2_022


def test_the_vocoder_has_the_elements_and_tensors_of_the_published_file(released: dict[str, dict[str, int]]) -> None:
    assert sum(released["vocoder"].values()) == 20_821_295
    assert len(released["vocoder"]) == 328


@pytest.mark.parametrize(
    ("stage", "base"),
    [
        ("tokenizer", "audio_tokenizer"),
        ("stage1", "audio_llm_7b"),
        ("stage2", "audio_llm_7b"),
        ("sft", "audio_llm_7b"),
        ("flow", "flow_decoder"),
        ("vocoder", "vocoder"),
    ],
)
def test_every_stage_trains_the_released_architecture(released: dict[str, dict[str, int]], stage: str, base: str) -> None:
    model = on_meta(f"baichuan_audio_7b/{stage}")
    ours = sizes(model)
    counters = [ours.pop(name) for name in list(ours) if name.endswith(".idle_steps")]
    assert sum(counters) == (IDLE_STEPS if stage == "tokenizer" else 0)
    assert ours == released[base]
    freeze_all_but(model, recipe_of(f"baichuan_audio_7b/{stage}").get("trainable"))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == TRAINABLE[stage]


def test_trainable_counts_follow_from_the_parts() -> None:
    llm = {prefix: elements for (recipe, prefix), elements in PARTS.items() if recipe == "audio_llm_7b"}
    never_used = 3 * (2 * 3584 + 3584)  # biases of the depth-wise feed-forward, kept for the checkpoint alone
    head = llm["audio_head."] - never_used
    assert TRAINABLE["stage1"] == llm["audio_embedding."] + head
    assert TRAINABLE["stage2"] == TRAINABLE["sft"] == TRAINABLE["stage1"] + llm["llm.model.layers."] + llm["llm.model.norm."]
    tokenizer = sum(elements for (recipe, _), elements in PARTS.items() if recipe == "audio_tokenizer")
    assert TRAINABLE["tokenizer"] == tokenizer - 199_248_896 - 1_920_000 - 3_840_000  # codebooks move without gradients
    assert TRAINABLE["flow"] == PARTS["flow_decoder", ""] - 2_560_000


@pytest.mark.parametrize("stage", sorted(TRAINABLE))
def test_the_readme_prints_the_trainable_counts(stage: str) -> None:
    rows = (RECIPES / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = (row for row in rows if f"`baichuan_audio_7b/{stage}.yaml`" in row and row.startswith("|"))
    assert f"{TRAINABLE[stage]:,}" in row


def test_the_mixture_is_the_papers_table_of_thousand_hours() -> None:
    for stage in ("stage1", "stage2"):
        sources = recipe_of(f"baichuan_audio_7b/{stage}")["data"]["train"]
        hours = {source["task"]: source["weight"] for source in sources}
        assert hours == {"asr": 185, "aqa": 21, "s2tt": 15, "intlv": 393, "tts": 51, "itts": 142, "audio": 80}
        assert sum(hours.values()) == 887
    tokenizer = {source["task"]: source["weight"] for source in recipe_of("baichuan_audio_7b/tokenizer")["data"]["train"]}
    assert tokenizer == {"asr": 135, "aqa": 11, "s2tt": 9}


@pytest.mark.parametrize(
    ("stage", "imported", "prefix"), [("stage1", "llm", "llm."), ("tokenizer", "encoder", "encoder."), ("vocoder", None, "")]
)
def test_a_first_stage_starts_from_an_imported_model_of_the_same_size(
    tmp_path: Path, stage: str, imported: str | None, prefix: str
) -> None:
    recipe = recipe_of(f"baichuan_audio_7b/{stage}", SMALL[stage])
    source = build(recipe["model"] if imported is None else recipe["model"][imported])
    save_model(tmp_path, source, {})
    model = build(recipe["model"])
    (hand_over,) = recipe["init_from"]
    report = init_from(model, **{**hand_over, "folder": tmp_path})
    assert (report.missing, report.unexpected) == ((), ())
    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[prefix + name], tensor), name


def test_every_later_stage_of_the_audio_llm_starts_from_all_weights_of_the_one_before(tmp_path: Path) -> None:
    save_model(tmp_path, build(recipe_of("baichuan_audio_7b/stage1", SMALL["stage1"])["model"]), {})
    for stage in ("stage2", "sft"):
        recipe = recipe_of(f"baichuan_audio_7b/{stage}", SMALL[stage])
        (hand_over,) = recipe["init_from"]
        report = init_from(build(recipe["model"]), **{**hand_over, "folder": tmp_path})
        assert (report.missing, report.unexpected) == ((), ())
        assert recipe["takes"].keys() == {"codes", "text_tokenizer", "llm"}
