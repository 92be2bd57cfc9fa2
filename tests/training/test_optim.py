import pytest
import torch
from torch import nn

from bcaudio.training.optim import AdamWCosine


def test_rate_rises_linearly_then_falls_as_a_cosine() -> None:
    optim = AdamWCosine(lr=1.0, max_steps=110, warmup_steps=10, min_lr_share=0.2)
    assert [optim.share(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert optim.share(60) == pytest.approx(0.6)  # half way: the mean of 1.0 and 0.2
    assert optim.share(110) == pytest.approx(0.2)
    assert optim.share(500) == pytest.approx(0.2)


def test_vectors_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1).requires_grad_(False))
    optimizer = AdamWCosine(lr=1.0, max_steps=10, weight_decay=0.1).build(model.parameters())["optimizer"]
    assert [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups] == [(0.1, 1), (0.0, 1)]


def test_one_step_follows_the_schedule() -> None:
    weight = nn.Parameter(torch.ones(1, 1))
    built = AdamWCosine(lr=0.5, max_steps=10, warmup_steps=5, weight_decay=0.0).build([weight])
    weight.grad = torch.ones(1, 1)
    built["optimizer"].step()
    assert weight.item() == pytest.approx(0.9)  # Adam's first step has the length of the rate: 0.5 / 5


def test_groups_have_their_own_rates_and_the_first_matching_pattern_counts() -> None:
    model = nn.ModuleDict({"llm": nn.Linear(2, 3), "audio_head": nn.Linear(3, 1), "audio_embedding": nn.Embedding(2, 2)})
    named = [(f"model.{name}", parameter) for name, parameter in model.named_parameters()]
    groups = [{"pattern": r"llm\.bias", "lr": 0.5}, {"pattern": r"llm\..*", "lr": 0.1, "weight_decay": 0.0}]
    built = AdamWCosine(lr=1.0, max_steps=10, warmup_steps=1, weight_decay=0.2, groups=groups).build(named)["optimizer"]
    found = [(group["lr"], group["weight_decay"], [tuple(p.shape) for p in group["params"]]) for group in built.param_groups]
    assert found == [(0.5, 0.0, [(3,)]), (0.1, 0.0, [(3, 2)]), (1.0, 0.2, [(1, 3), (2, 2)]), (1.0, 0.0, [(1,)])]


@pytest.mark.parametrize("pattern", [r"lm\..*", r"llm\.weight"])
def test_a_group_that_matches_nothing_is_an_error_that_shows_names(pattern: str) -> None:
    model = nn.ModuleDict({"llm": nn.Linear(2, 3), "head": nn.Linear(2, 3)})
    model["llm"].weight.requires_grad_(False)
    optim = AdamWCosine(lr=1.0, max_steps=10, groups=[{"pattern": pattern, "lr": 0.1}])
    with pytest.raises(ValueError, match=r"matches no trained parameter.*llm\.bias, head\.weight"):
        optim.build(model.named_parameters())


def test_a_group_with_an_unknown_key_and_a_model_without_anything_to_train_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'rate': 1.* takes lr and weight_decay"):
        AdamWCosine(lr=1.0, max_steps=10, groups=[{"pattern": ".*", "rate": 1}])
    with pytest.raises(ValueError, match="no parameter is trained"):
        AdamWCosine(lr=1.0, max_steps=10).build(nn.Linear(2, 2).requires_grad_(False).parameters())
