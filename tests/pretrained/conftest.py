"""Small published folders, made of the parity fixtures' weights and of tiny random models."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "parity" / "fixtures"
# one published model lies in these four; its audio head is drawn here
PARTS = ("audio_llm", "tokenizer_encode", "tokenizer_decode", "flow_sampling")
Writer = Callable[..., Path]


@pytest.fixture(scope="session")
def full_size() -> ModuleType:
    """The script full_size.py."""
    spec = importlib.util.spec_from_file_location("full_size", Path(__file__).parent / "full_size.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def released_config() -> dict[str, Any]:
    """The configuration of the fixtures."""
    return json.loads((FIXTURES / "audio_llm.json").read_text())["config"]


@pytest.fixture(scope="session")
def released_state(released_config: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a small published model, bf16 with fp32 codebooks."""
    state: dict[str, Tensor] = {}
    for part in PARTS:
        for name, tensor in load_file(FIXTURES / f"{part}.safetensors").items():
            if name.startswith("weights."):
                state[name.removeprefix("weights.")] = tensor
    width, sizes = released_config["hidden_size"], released_config["audio_config"]["vq_config"]["codebook_sizes"]
    shapes: dict[str, list[int]] = {"headnorm.weight": [width]}
    for i in range(released_config["audio_config"]["audio_head_transformer_layers"]):
        layer = f"transformer_layers.{i}"
        shapes |= {
            f"{layer}.self_attention.in_proj_weight": [3 * width, width],
            f"{layer}.self_attention.in_proj_bias": [3 * width],
            f"{layer}.self_attention.out_proj.weight": [width, width],
            f"{layer}.self_attention.out_proj.bias": [width],
            f"{layer}.layernorm1.weight": [width],
            f"{layer}.layernorm2.weight": [width],
            f"{layer}.linear1.weight": [2 * width, len(sizes) * width],
            f"{layer}.linear1.bias": [2 * width],
            f"{layer}.linear2.weight": [width, len(sizes) * 2 * width],
            f"{layer}.linear2.bias": [width],
        }
    for i, size in enumerate(sizes):
        shapes |= {f"heads.{i}.weight": [size + 1, width], f"heads.{i}.bias": [size + 1]}
    generator = torch.Generator().manual_seed(0)
    state |= {f"audio_head.{name}": torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes.items()}
    return {name: tensor if ".codebook." in name else tensor.bfloat16() for name, tensor in state.items()}


@pytest.fixture
def write_released(
    tmp_path: Path, released_config: dict[str, Any], released_state: dict[str, Tensor], full_size: ModuleType
) -> Writer:
    """`write_released(change=function on state and config, with_hift=True)` -> a published folder with two shards."""

    def write(change: Callable[[dict, dict], None] | None = None, with_hift: bool = True) -> Path:
        folder = tmp_path / "released"
        folder.mkdir()
        state, config = dict(released_state), json.loads(json.dumps(released_config))
        if change:
            change(state, config)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "generation_config.json").write_text('{"eos_token_id": 89}')
        ids = full_size.token_ids(released_config)
        audio = {f"<{key.removesuffix('_token_id')}_baichuan>": i for key, i in ids.items()}
        full_size.write_tokenizer(folder, {"<|endoftext|>": 89, "<B_SYS>": 90, "<C_Q>": 91, "<C_A>": 92} | audio)
        names = list(state)
        halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, chosen in halves.items():
            save_file({name: state[name].contiguous() for name in chosen}, folder / file)
        weight_map = {name: file for file, chosen in halves.items() for name in chosen}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        if with_hift:
            torch.save(hift_state(), folder / "hift.pt")
        return folder

    return write


def hift_state() -> dict[str, Tensor]:
    """The small vocoder of the fixtures under its published names."""
    tensors = load_file(FIXTURES / "hift_vocoder.safetensors")
    return {name.removeprefix("weights."): tensor for name, tensor in tensors.items() if name.startswith("weights.")}


@pytest.fixture
def hift() -> dict[str, Tensor]:
    """The small vocoder of the fixtures under its published names."""
    return hift_state()


def folder_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of all shards in a folder."""
    return {name: tensor for file in sorted(folder.glob("model*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.fixture
def tensors_of() -> Callable[[Path], dict[str, Tensor]]:
    """All tensors of all shards in a folder."""
    return folder_tensors


def same_bytes(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether names, dtypes, shapes and bytes agree."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype
        and tensor.shape == second[name].shape
        and torch.equal(tensor.contiguous().view(-1).view(torch.uint8), second[name].contiguous().view(-1).view(torch.uint8))
        for name, tensor in first.items()
    )


@pytest.fixture
def identical() -> Callable[[dict[str, Tensor], dict[str, Tensor]], bool]:
    """Whether names, dtypes, shapes and bytes agree."""
    return same_bytes
