import pytest
from torch import nn

from bcaudio.training.freezing import freeze_all_but, frozen_tensors


def model() -> nn.Module:
    return nn.ModuleDict({"llm": nn.Linear(2, 2), "audio_head": nn.Linear(2, 2), "audio_embedding": nn.Linear(2, 2)})


def test_only_matching_parameters_learn() -> None:
    made = model()
    freeze_all_but(made, [r"audio_head\..*", r"llm\.bias"])
    learning = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert learning == {"audio_head.weight", "audio_head.bias", "llm.bias"}
    assert set(frozen_tensors(made)) == {"llm.weight", "audio_embedding.weight", "audio_embedding.bias"}


def test_no_patterns_let_everything_learn() -> None:
    made = model()
    freeze_all_but(made, None)
    assert not frozen_tensors(made)


def test_pattern_that_matches_nothing_is_an_error_that_shows_names() -> None:
    with pytest.raises(ValueError, match=r"'audio_haed.*' matches no parameter.*llm.weight"):
        freeze_all_but(model(), ["audio_haed.*"])
