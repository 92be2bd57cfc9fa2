import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from bcaudio import checkpoint
from bcaudio.checkpoint import (
    check_fingerprint,
    init_from,
    load_model,
    load_state,
    read_fingerprint,
    save_model,
    tensor_sha256,
)


def model(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))


def test_what_is_saved_is_loaded_bit_for_bit_with_its_dtype(tmp_path: Path) -> None:
    saved = nn.Linear(2, 3).to(torch.bfloat16)
    save_model(tmp_path, saved, {"codebook_sizes": (4, 2)})
    state = load_state(tmp_path)
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in state.items()} == {
        "weight": (torch.bfloat16, (3, 2)),
        "bias": (torch.bfloat16, (3,)),
    }
    assert torch.equal(state["weight"], saved.weight)
    assert read_fingerprint(tmp_path) == {"codebook_sizes": [4, 2], "weights_sha256": tensor_sha256(saved.state_dict())}
    assert not list(tmp_path.glob(".*"))


def test_tied_and_transposed_parameters_are_saved_under_every_name(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    tied[0].bias = nn.Parameter(torch.arange(4.0).reshape(2, 2).T[0])
    save_model(tmp_path, tied, {})
    state = load_state(tmp_path)
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert state["0.bias"].tolist() == [0.0, 2.0]


def test_load_model_builds_from_the_recipe_and_lists_what_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: {_target_: torch.nn.Linear, in_features: 2, out_features: 3}")
    saved = nn.Linear(2, 3)
    save_model(tmp_path, saved, {})
    loaded = load_model(tmp_path)
    assert torch.equal(loaded.weight, saved.weight)
    assert not loaded.training
    save_model(tmp_path, nn.ParameterDict({"weight": torch.zeros(3, 4), "extra": torch.zeros(1)}), {})
    with pytest.raises(ValueError, match=r"missing bias, unexpected extra, weight: \[3, 4\] in the file, \[3, 2\] in the model"):
        load_model(tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1")
    with pytest.raises(ValueError, match="has no 'model'"):
        load_model(tmp_path)


def test_init_from_reports_every_key_and_moves_between_prefixes(tmp_path: Path) -> None:
    source = nn.ModuleDict({"encoder": model(), "decoder": nn.Linear(1, 1)})
    save_model(tmp_path, source, {})
    target = nn.ModuleDict({"tower": nn.Sequential(nn.Linear(2, 3), nn.Identity(), nn.Linear(3, 3)), "other": nn.Linear(1, 1)})
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ValueError, match=r"missing tower\.2\.bias, tower\.2\.weight; name them in allow_missing"):
        init_from(target, tmp_path, "encoder.", "tower.", allow_missing=["tower"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())
    report = init_from(target, tmp_path, "encoder.", "tower.", allow_missing=[r"tower\.2\..*"])
    assert report.loaded == ("tower.0.bias", "tower.0.weight")
    assert report.missing == ("tower.2.bias", "tower.2.weight")
    assert report.unexpected == tuple(
        f"tower.1.{name}" for name in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")
    )
    assert torch.equal(target["tower"][0].weight, source["encoder"][0].weight)
    assert torch.equal(target["other"].weight, before["other.weight"])


def test_init_from_refuses_other_shapes_naming_both_and_changes_nothing(tmp_path: Path) -> None:
    save_model(tmp_path, model(3), {})
    target = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(4))
    before = target[0].weight.clone()
    with pytest.raises(ValueError, match=r"1\.bias: \[3\] in the file, \[4\] in the model"):
        init_from(target, tmp_path, allow_missing=True)
    assert torch.equal(target[0].weight, before)


def test_prefixes_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, nn.ModuleDict({"encoder": model()}), {})
    with pytest.raises(ValueError, match=r"no tensor begins with 'encodr\.'; the names begin with encoder\."):
        load_state(tmp_path, "encodr.")
    with pytest.raises(ValueError, match="no tensor fits"):
        init_from(model(), tmp_path, allow_missing=True)
    with pytest.raises(FileNotFoundError, match="run the stage"):
        load_state(tmp_path / "nowhere")


def test_a_broken_weights_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(ValueError, match="no valid safetensors"):
        load_state(tmp_path)


def test_a_fingerprint_mismatch_names_each_key_with_both_values() -> None:
    expected = {"codebook_sizes": (8, 4), "mel": {"hop_length": 256, "n_mels": 80}, "tokens": 5}
    found = {"codebook_sizes": [8, 2], "mel": {"hop_length": 256, "n_mels": 100}, "weights_sha256": "x"}
    with pytest.raises(ValueError, match="runs/x") as caught:
        check_fingerprint(expected, found, "runs/x")
    assert str(caught.value).splitlines()[:-1] == [
        "runs/x: fingerprint codebook_sizes: expected [8, 4], found [8, 2]",
        "runs/x: fingerprint mel.n_mels: expected 80, found 100",
        "runs/x: fingerprint tokens: expected 5, found nothing",
    ]
    check_fingerprint({"codebook_sizes": (8, 4)}, json.loads('{"codebook_sizes": [8, 4], "more": 1}'), "runs/x")


def test_tensor_sha256_sees_name_dtype_shape_and_bytes_but_not_order() -> None:
    a, b = torch.tensor([1, 2]), torch.tensor(3.0, dtype=torch.bfloat16)
    reference = tensor_sha256({"a": a, "b": b})
    assert tensor_sha256({"b": b, "a": a}) == reference
    others = [
        {"a": a},
        {"c": a, "b": b},
        {"a": a.reshape(1, 2), "b": b},
        {"a": a + 1, "b": b},
        {"a": a.view(torch.float64), "b": b},
    ]
    assert len({reference, *map(tensor_sha256, others)}) == 6


def test_a_full_disk_leaves_the_old_weights_and_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, model(), {"a": 1})
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as caught:
        save_model(tmp_path, model(4), {"a": 2})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert read_fingerprint(tmp_path)["a"] == 1
    assert len(list(tmp_path.iterdir())) == 2
