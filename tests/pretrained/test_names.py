"""The table of names against the full list of the published state dict."""

from types import ModuleType

import pytest
import torch

from bcaudio.pretrained.config import models_of_config
from bcaudio.pretrained.names import (
    from_released,
    hift_from_released,
    llm_from_released,
    llm_to_released,
    pack_qkv,
    released_order,
    to_released,
    unpack_qkv,
    whisper_from_huggingface,
    whisper_to_huggingface,
)
from bcaudio.pretrained.nodes import meta_model
from bcaudio.pretrained.vocoder_sizes import vocoder_of_shapes


@pytest.fixture(scope="module")
def released(full_size: ModuleType) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, (_, shape) in full_size.released_tensors().items()}


@pytest.fixture(scope="module")
def ours(full_size: ModuleType) -> dict[str, dict[str, torch.Tensor]]:
    """Our three models at the released sizes, on the meta device."""
    models = models_of_config(full_size.released_config(), 151678, "config.json")
    return {part: meta_model(node, part).state_dict() for part, node in models.items()}


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_our_models_at_released_sizes_have_all_2022_published_names_and_shapes(
    released: dict[str, torch.Tensor], ours: dict[str, dict[str, torch.Tensor]]
) -> None:
    theirs = to_released("tokenizer", ours["tokenizer"]) | to_released("flow", ours["flow"]) | llm_to_released(ours["audio_llm"])
    assert len(theirs) == 2022
    assert sum(tensor.numel() for tensor in theirs.values()) == 10_346_592_920
    assert shapes(theirs) == shapes(released)


def test_published_names_come_back_as_the_names_of_our_models(
    released: dict[str, torch.Tensor], ours: dict[str, dict[str, torch.Tensor]]
) -> None:
    def cut(tensor: torch.Tensor, first: int, last: int) -> torch.Tensor:
        return tensor[first:last]

    assert shapes(from_released("tokenizer", released)) == shapes(ours["tokenizer"])
    assert shapes(from_released("flow", released)) == shapes(ours["flow"])
    assert shapes(llm_from_released(released, 28, 4, cut)) == shapes(ours["audio_llm"])


def test_parts_are_ordered_as_published(released: dict[str, torch.Tensor]) -> None:
    parts = [name.split(".")[:2] for name in released_order(reversed(released))]
    published = [name.split(".")[:2] for name in released]
    for name in (parts, published):  # layers, norm and heads of the audio head are one part
        name[:] = [part[:1] if part[0] in ("audio_head", "lm_head") else part for part in name]
    assert parts == published


def test_hift_has_all_328_names_and_the_published_sizes(full_size: ModuleType) -> None:
    published = {name: torch.empty(shape, device="meta") for name, shape in full_size.hift_tensors().items()}
    node = vocoder_of_shapes(published, "hift.pt")
    state = meta_model(node, "vocoder").state_dict()
    assert len(state) == 328
    assert sum(tensor.numel() for tensor in state.values()) == 20_821_295
    assert shapes(state) == shapes(published)
    assert (node["upsample_rates"], node["num_harmonics"], node["istft_n_fft"]) == ([8, 5, 3], 8, 16)


@pytest.mark.parametrize("prefix", ["", "generator."])
def test_new_weight_norm_names_are_the_old_ones(prefix: str) -> None:
    new = {
        f"{prefix}ups.0.parametrizations.weight.original0": torch.zeros(1),
        f"{prefix}ups.0.parametrizations.weight.original1": torch.ones(2),
        f"{prefix}ups.0.bias": torch.ones(3),
    }
    assert {name: len(tensor) for name, tensor in hift_from_released(new).items()} == {
        "ups.0.weight_g": 1,
        "ups.0.weight_v": 2,
        "ups.0.bias": 3,
    }


def test_w_pack_rows_are_query_key_value() -> None:
    rows = torch.arange(8.0)[:, None]  # 2 query heads and 1 key-value head of width 2
    name = "model.layers.0.self_attn.{}.weight"
    split = unpack_qkv({name.format("W_pack"): rows}, 2, 1)
    assert [split[name.format(f"{p}_proj")][:, 0].tolist() for p in "qkv"] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    assert torch.equal(pack_qkv(split)[name.format("W_pack")], rows)
    with pytest.raises(ValueError, match="8 rows do not divide into 3 query"):
        unpack_qkv({name.format("W_pack"): rows}, 3, 1)


def test_whisper_names_go_there_and_back_and_the_decoder_stays_behind() -> None:
    ours = {"positional_embedding": torch.zeros(1), "layers.0.fc1.weight": torch.ones(1)}
    theirs = whisper_to_huggingface(ours)
    assert theirs.keys() == {"encoder.embed_positions.weight", "encoder.layers.0.fc1.weight"}
    for prefix in ("", "model."):
        found = {prefix + name: tensor for name, tensor in theirs.items()} | {"proj_out.weight": torch.zeros(1)}
        assert whisper_from_huggingface(found) == ours
