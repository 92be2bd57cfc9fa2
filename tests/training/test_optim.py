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
