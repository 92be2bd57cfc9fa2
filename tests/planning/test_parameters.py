"""Parameters by part."""

from torch import nn

from bcaudio.planning.parameters import Part, parts_of, sum_of


def test_parts_end_at_the_first_number_and_a_shared_tensor_counts_once() -> None:
    model = nn.ModuleDict({"body": nn.ModuleList([nn.Linear(2, 3), nn.Linear(3, 2)]), "head": nn.Linear(3, 2)})
    model["head"].weight = model["body"][1].weight  # tied
    model["body"][0].requires_grad_(False)
    parts = parts_of(model)
    assert parts == [Part("body", 9 + 8, 8), Part("head", 2, 2)]
    assert (sum_of(parts).total, sum_of(parts).frozen) == (19, 9)
