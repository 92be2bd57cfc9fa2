import copy
from types import ModuleType
from typing import Any

import pytest

from bcaudio.pretrained.config import EXTRAS, config_of_models, models_of_config
from bcaudio.pretrained.nodes import complete, difference


@pytest.fixture
def config(full_size: ModuleType) -> dict[str, Any]:
    return full_size.released_config()


def ids(config: dict[str, Any]) -> Any:
    audio = config["audio_config"]
    return lambda name: audio.get(f"{name.strip('<>').removesuffix('_baichuan')}_token_id")


def test_the_published_configuration_comes_back_from_its_models(config: dict[str, Any]) -> None:
    models = models_of_config(config, 151678, "config.json")
    made = config_of_models(models, ids(config), "bfloat16", 152064)
    assert EXTRAS not in made
    for section in ("audio_config", "vocoder_config", "flow_matching_config"):
        assert made[section] == config[section]
    top = {key: value for key, value in made.items() if not isinstance(value, dict) and key in config and key != "multimodal"}
    assert len(top) >= 20
    assert top == {key: config[key] for key in top}
    assert models_of_config(made, 151678, "config.json") == models


def test_what_the_schema_lacks_goes_into_one_key_and_is_read_back(config: dict[str, Any]) -> None:
    models = models_of_config(config, 151678, "config.json")
    models["flow"] |= {"mel_mean": -5.0, "mel_std": 2.5}
    models["tokenizer"]["decoder"]["refiner_kernel_size"] = 3
    models["tokenizer"]["bridge"]["quantizer"]["restart_after"] = 100
    models["audio_llm"]["head"]["head_dim"] = 64
    models["audio_llm"]["llm"]["config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000000.0}
    made = config_of_models(models, ids(config), "bfloat16", 152064)
    assert made[EXTRAS] == {
        "flow": {"mel_mean": -5.0, "mel_std": 2.5},
        "tokenizer": {"decoder": {"refiner_kernel_size": 3}, "bridge": {"quantizer": {"restart_after": 100}}},
        "audio_llm": {
            "head": {"head_dim": 64},
            "llm": {"config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}}},
        },
    }
    back = models_of_config(made, 151678, "config.json")
    for part, node in models.items():
        assert difference(complete(node), complete(back[part]), part) == {}


@pytest.mark.parametrize(
    "extra", [{"flow": {"_target_": "torch.nn.Linear"}}, {"flow": {"prenet": {"in_dim": [{"_target_": "x"}]}}}]
)
def test_a_configuration_may_not_name_classes(config: dict[str, Any], extra: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"config.json: bcaudio.flow.*may not name classes"):
        models_of_config(config | {EXTRAS: extra}, 151678, "config.json")


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (None, "use_norm_head", True, "use_norm_head is True, but only False"),
        ("flow_matching_config", "spk_emb_dim", 80, "flow_matching_config.spk_emb_dim is 80, but only 0"),
        ("audio_config", "hop_length", 0, "a size has no useful value"),
        ("audio_config", "d_model", None, "audio_config.d_model is missing"),
        ("flow_matching_config", "channels", None, "flow_matching_config: channels is missing"),
        (None, "hidden_size", None, "hidden_size missing"),
    ],
)
def test_settings_that_are_absent_or_not_computed_are_named(
    config: dict[str, Any], section: str | None, key: str, value: Any, message: str
) -> None:
    changed = copy.deepcopy(config)
    place = changed[section] if section else changed
    if value is None:
        del place[key]
    else:
        place[key] = value
    with pytest.raises(ValueError, match=message) as caught:
        models_of_config(changed, 151678, "here/config.json")
    assert str(caught.value).startswith("here/config.json: ")
    assert "\n" not in str(caught.value)


def test_other_models_have_no_place_in_the_released_layout(config: dict[str, Any]) -> None:
    models = models_of_config(config, 151678, "config.json")
    llama = copy.deepcopy(models)
    llama["audio_llm"]["llm"]["config"]["model_type"] = "llama"
    with pytest.raises(ValueError, match="holds a qwen2 language model, not llama; use --format huggingface"):
        config_of_models(llama, ids(config), "bfloat16", 152064)
    headless = copy.deepcopy(models)
    headless["audio_llm"]["head"] = None
    with pytest.raises(ValueError, match="needs an audio head"):
        config_of_models(headless, ids(config), "bfloat16", 152064)
    other = copy.deepcopy(models)
    other["flow"]["estimator"] = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1}
    with pytest.raises((ValueError, KeyError)):
        config_of_models(other, ids(config), "bfloat16", 152064)
