import pytest
from torch import nn

from bcaudio.recipe.build import build
from bcaudio.recipe.errors import RecipeError

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}


def test_nested_nodes_are_built_inside_out() -> None:
    layer = build({"_target_": "torch.nn.ModuleList", "modules": [LINEAR, {"_target_": "torch.nn.Identity"}]})
    assert isinstance(layer, nn.ModuleList)
    assert (layer[0].in_features, type(layer[1])) == (2, nn.Identity)
    assert build({"a": [1, {"b": LINEAR}]})["a"][1]["b"].out_features == 3
    assert build("text") == "text"


def test_given_goes_to_the_outermost_object_only() -> None:
    node = {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 4, "nhead": 1},
    }
    assert len(build(node, num_layers=2, enable_nested_tensor=False).layers) == 2
    with pytest.raises(RecipeError, match=r"model\.in_features: supplied by the program"):
        build(LINEAR, "model", in_features=3)
    with pytest.raises(RecipeError, match="expected a mapping with _target_"):
        build([LINEAR], "model", in_features=3)


def test_an_error_of_a_constructor_begins_with_its_key_path() -> None:
    bad = {"_target_": "torch.nn.Conv1d", "in_channels": 3, "out_channels": 2, "kernel_size": 1, "groups": 2}
    with pytest.raises(RecipeError, match=r"^model\.modules\.1: torch\.nn\.Conv1d: in_channels must be divisible by groups$"):
        build({"_target_": "torch.nn.ModuleList", "modules": [LINEAR, bad]}, "model")
    with pytest.raises(RecipeError, match=r"^model\._target_: os\.system: not allowed"):
        build({"_target_": "os.system", "command": "true"}, "model")


def test_a_missing_file_stays_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"^init: bcaudio\.checkpoint\.load_state: .*nowhere"):
        build({"_target_": "bcaudio.checkpoint.load_state", "folder": "nowhere"}, "init")
