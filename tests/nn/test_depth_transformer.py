import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bcaudio.nn.depth_transformer import DepthAttention, DepthLinear, DepthTransformer

SIZES = [6, 5, 4, 3]


@pytest.fixture
def head() -> DepthTransformer:
    torch.manual_seed(0)
    return DepthTransformer(16, SIZES, num_layers=2, head_dim=8)


def test_depth_linear_uses_the_columns_of_its_position_and_no_bias() -> None:
    linear = DepthLinear(1, 1, num_positions=3)
    linear.weight.data = torch.tensor([[2.0, 3.0, 5.0]])
    linear.bias.fill_(100.0)
    torch.testing.assert_close(linear(torch.ones(1, 3, 1))[0, :, 0], torch.tensor([2.0, 3.0, 5.0]))
    torch.testing.assert_close(linear(torch.ones(1, 2, 1), first=1)[0, :, 0], torch.tensor([3.0, 5.0]))


def test_attention_equals_torch_multihead_attention_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = DepthAttention(16, 2), nn.MultiheadAttention(16, 2, batch_first=True)
    ours.in_proj_bias.data.normal_()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 5, 16)
    mask = torch.triu(torch.ones(5, 5, dtype=torch.bool), diagonal=1)
    torch.testing.assert_close(ours(x)[0], theirs(x, x, x, attn_mask=mask, need_weights=False)[0])


def test_residual_is_taken_after_the_second_norm() -> None:
    torch.manual_seed(0)
    layer = DepthTransformer(16, SIZES, num_layers=1, head_dim=8).transformer_layers[0]
    nn.init.zeros_(layer.linear2.weight)
    nn.init.zeros_(layer.self_attention.out_proj.weight)
    x = torch.randn(2, 4, 16)
    torch.testing.assert_close(layer(x)[0], F.rms_norm(x, (16,), eps=1e-6))


def test_names_and_shapes_are_those_of_the_released_head(head: DepthTransformer) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in head.state_dict().items() if ".1." not in name or "heads" in name}
    layer = "transformer_layers.0."
    assert shapes == {
        layer + "self_attention.in_proj_weight": (48, 16),
        layer + "self_attention.in_proj_bias": (48,),
        layer + "self_attention.out_proj.weight": (16, 16),
        layer + "self_attention.out_proj.bias": (16,),
        layer + "layernorm1.weight": (16,),
        layer + "layernorm2.weight": (16,),
        layer + "linear1.weight": (32, 64),
        layer + "linear1.bias": (32,),
        layer + "linear2.weight": (16, 128),
        layer + "linear2.bias": (16,),
        "headnorm.weight": (16,),
        **{f"heads.{i}.weight": (size + 1, 16) for i, size in enumerate(SIZES)},
        **{f"heads.{i}.bias": (size + 1,) for i, size in enumerate(SIZES)},
    }


def test_a_level_reads_the_codes_before_it_and_no_later_one(head: DepthTransformer) -> None:
    hidden, embeddings = torch.randn(1, 16), torch.randn(1, 3, 16, requires_grad=True)
    for level, logits in enumerate(head(hidden, embeddings)):
        (grad,) = torch.autograd.grad(logits.sum(), embeddings, allow_unused=True, retain_graph=True)
        reads = [False] * 3 if grad is None else (grad[0].abs().sum(dim=-1) > 0).tolist()
        assert reads == [position < level for position in range(3)]


def test_cached_steps_equal_teacher_forcing(head: DepthTransformer) -> None:
    hidden, embeddings = torch.randn(5, 16), torch.randn(5, 3, 16)
    cache = head.start()
    stepped = [head.step(x, cache) for x in (hidden, *embeddings.unbind(dim=1))]
    for step, forced in zip(stepped, head(hidden, embeddings), strict=True):
        torch.testing.assert_close(step, forced)


def test_greedy_chooses_the_end_class_at_level_0_only(head: DepthTransformer) -> None:
    for classifier in head.heads:
        classifier.bias.data[-1] = 1e4
    tables = [nn.Embedding(size + 1, 16) for size in SIZES]
    codes = head.greedy(torch.randn(7, 16), tables)
    assert codes.shape == (7, 4)
    assert (codes[:, 0] == SIZES[0]).all()
    assert (codes[:, 1:] < torch.tensor(SIZES[1:])).all()


def test_no_frames_still_give_every_parameter_a_gradient(head: DepthTransformer) -> None:
    sum(level.sum() for level in head(torch.randn(0, 16), torch.randn(0, 3, 16))).backward()
    assert [name for name, parameter in head.named_parameters() if parameter.grad is None] == []


def test_width_that_head_dim_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="dim 192 is no multiple of head_dim 128"):
        DepthTransformer(192, SIZES)
