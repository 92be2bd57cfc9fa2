"""The quantiser: updates worked out by hand, restart, dropout, gradients, and two ranks against one."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from bcaudio.nn.residual_vq import ResidualVQ


def two_entries(**options: object) -> ResidualVQ:
    """One level with the entries 0 and 10 of width 1, each counted once."""
    vq = ResidualVQ([2], 1, kmeans_init=False, **options)
    entries = torch.tensor([[0.0], [10.0]])
    vq.codebooks[0].embed.copy_(entries)
    vq.codebooks[0].embed_avg.copy_(entries)
    return vq.train()


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # counts 0.5 + 0.5 * (2, 1); sums 0.5 * (0, 10) + 0.5 * (4, 12); quotients 2 / 1.5 and 11, times 0.9
        ("counts", [1.2, 9.9]),
        # 0.5 * (0, 10) + 0.5 * (2, 12), times 0.9
        ("convex", [0.9, 9.9]),
        # 0.5 * (0, 10) + (2, 12), times 0.9
        ("paper", [1.8, 15.3]),
    ],
)
def test_ema_of_a_two_entry_codebook_by_hand(form: str, expected: list[float]) -> None:
    vq = two_entries(ema_decay=0.5, norm_beta=0.1, ema_form=form)
    output = vq(torch.tensor([[[1.0], [3.0], [12.0], [99.0]]]), torch.tensor([[True, True, True, False]]))
    assert output.codes.flatten().tolist() == [0, 0, 1, 0]
    assert output.usage[0].tolist() == [2, 1]
    torch.testing.assert_close(vq.codebooks[0].embed.flatten(), torch.tensor(expected))
    torch.testing.assert_close(vq.codebooks[0].cluster_size, torch.tensor([1.5, 1.0]))
    torch.testing.assert_close(vq.codebooks[0].embed_avg.flatten(), torch.tensor([2.0, 11.0]))


def test_an_entry_without_inputs_keeps_its_value_and_eval_learns_nothing() -> None:
    vq = two_entries(ema_decay=0.5, norm_beta=0.1)
    vq(torch.tensor([[[1.0]]]))
    assert vq.codebooks[0].embed[1].item() == 10.0
    before = vq.codebooks[0].embed.clone()
    vq.eval()(torch.tensor([[[4.0]]]))
    assert torch.equal(vq.codebooks[0].embed, before)


def test_levels_quantise_what_the_levels_before_left() -> None:
    vq = ResidualVQ([2, 2], 1, kmeans_init=False).eval()
    vq.codebooks[0].embed.copy_(torch.tensor([[0.0], [10.0]]))
    vq.codebooks[1].embed.copy_(torch.tensor([[-1.0], [2.0]]))
    output = vq(torch.tensor([[[11.5], [-2.0]]]))
    assert output.codes.tolist() == [[[1, 1], [0, 0]]]
    assert output.quantized.flatten().tolist() == [12.0, -1.0]
    torch.testing.assert_close(output.commitment, torch.tensor([[[2.25, 0.25], [4.0, 1.0]]]))
    assert torch.equal(vq.encode(torch.tensor([[11.5], [-2.0]])), output.codes[0])
    assert vq.decode(output.codes).flatten().tolist() == [12.0, -1.0]
    assert vq.decode(output.codes, num_levels=1).flatten().tolist() == [10.0, 0.0]


def test_gradient_goes_straight_through_and_commitment_pulls_the_input_alone() -> None:
    vq = two_entries()
    h = torch.tensor([[[1.0], [8.0], [5.0]]], requires_grad=True)
    output = vq(h, torch.tensor([[True, True, False]]))
    (output.quantized * torch.tensor([[[2.0], [-3.0], [7.0]]])).sum().backward(retain_graph=True)
    assert h.grad.flatten().tolist() == [2.0, -3.0, 0.0]
    h.grad = None
    output.commitment.sum().backward()
    # 2 (h - q) with q = 0 and 10
    assert h.grad.flatten().tolist() == [2.0, -4.0, 0.0]
    assert not list(vq.parameters())


def test_layer_dropout_keeps_a_prefix_of_the_levels() -> None:
    torch.manual_seed(0)
    vq = ResidualVQ([8, 8, 8], 4, layer_dropout=1.0, kmeans_init=False, ema_decay=1.0).train()
    h = torch.randn(60, 5, 4)
    output = vq(h)
    kept = []
    for clip in range(60):
        fits = [n for n in (1, 2, 3) if torch.allclose(vq.decode(output.codes[clip], n), output.quantized[clip], atol=1e-5)]
        assert len(fits) == 1
        kept += fits
    # n uniform in 1..3: 20 of 60 each on average, standard deviation 3.7
    assert all(8 < kept.count(n) < 32 for n in (1, 2, 3))
    assert torch.equal(vq.eval()(h).codes, output.codes)


def test_gumbel_draws_from_the_softmax_of_distances() -> None:
    torch.manual_seed(0)
    vq = two_entries(gumbel_temperature=2.0, ema_decay=1.0)
    codes = vq(torch.full((1, 20000, 1), 4.0)).codes
    # distances 4 and 6, temperature 2: 1 / (1 + exp(-1)) = 0.731
    assert (codes == 0).float().mean().item() == pytest.approx(0.731, abs=0.012)
    assert (vq.eval()(torch.full((1, 100, 1), 4.0)).codes == 0).all()


def restarting(share: float, after: int = 2) -> ResidualVQ:
    """One level of ten far entries; entry 0 sits where the inputs are."""
    vq = ResidualVQ([10], 2, kmeans_init=False, restart_after=after, restart_share=share, ema_decay=1.0).train()
    vq.codebooks[0].embed.copy_(torch.arange(10.0)[:, None] * torch.tensor([100.0, 100.0]))
    vq.codebooks[0].embed_avg.copy_(vq.codebooks[0].embed)
    return vq


def test_restart_waits_takes_a_share_and_never_a_duplicate() -> None:
    torch.manual_seed(0)
    vq = restarting(share=0.3)
    # one vector equal to entry 0, three others, one of them eight times: three draws almost surely hold a copy
    batch = torch.tensor([[[0.0, 0.0], *[[1.0, 2.0]] * 8, [3.0, 1.0], [2.0, 5.0]]])
    old = vq.codebooks[0].embed.clone()
    vq(batch)
    assert torch.equal(vq.codebooks[0].embed, old)
    for _ in range(8):
        vq(batch)
        fresh = vq.codebooks[0].embed[(vq.codebooks[0].embed != old).any(dim=1)].tolist()
        assert len(fresh) <= 3
        assert len({tuple(vector) for vector in fresh}) == len(fresh)
        assert all(vector in [[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]] for vector in fresh)
    assert len(fresh) == 3


def test_restart_never_replaces_more_than_its_share_in_a_step() -> None:
    torch.manual_seed(0)
    vq = restarting(share=0.2, after=1)
    old = vq.codebooks[0].embed.clone()
    vq(torch.randn(1, 50, 2))
    assert (vq.codebooks[0].embed != old).any(dim=1).sum().item() == 2


def test_kmeans_init_spreads_entries_over_the_first_batch_only() -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    h = (centres.repeat(40, 1) + torch.randn(120, 2))[None]
    vq = ResidualVQ([3, 16], 2, ema_decay=1.0).train()
    first = vq(h)
    assert first.usage[0].sum().item() == 120
    after = vq.codebooks[0].embed.clone()
    assert len({tuple(row) for row in vq.codebooks[1].embed.tolist()}) == 16
    vq(h + 5.0)
    assert torch.equal(vq.codebooks[0].embed, after)


def test_kmeans_with_fewer_vectors_than_entries_leaves_work_for_the_next_level() -> None:
    torch.manual_seed(0)
    output = ResidualVQ([64, 64], 8).train()(torch.randn(1, 40, 8))
    assert output.commitment[..., 0].mean() > 0.05


def test_published_names_and_float32_whatever_the_model_is_cast_to() -> None:
    vq = ResidualVQ([4, 2], 3).to(torch.bfloat16)
    assert {name: (tuple(t.shape), t.dtype) for name, t in vq.state_dict().items() if name.startswith("1.")} == {
        "1.codebook.embed": ((2, 3), torch.float32),
        "1.codebook.embed_avg": ((2, 3), torch.float32),
        "1.codebook.cluster_size": ((2,), torch.float32),
    }
    assert vq(torch.randn(1, 2, 3, dtype=torch.bfloat16)).quantized.dtype == torch.bfloat16


def test_state_loads_with_and_without_the_restart_counter() -> None:
    published, trained = ResidualVQ([4], 3), ResidualVQ([4], 3, restart_after=5)
    trained.codebooks[0].idle_steps.fill_(3)
    published.load_state_dict(trained.state_dict())
    assert torch.equal(published.codebooks[0].embed, trained.codebooks[0].embed)
    trained.load_state_dict(published.state_dict())
    assert trained.codebooks[0].idle_steps.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"ema_decay": 1.5}, "ema_decay is 1.5"), ({"ema_form": "mean"}, '"mean"'), ({"restart_after": 0}, "restart_after 0")],
)
def test_arguments_out_of_range_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualVQ([4], 2, **options)


def batches() -> Tensor:
    """[steps, clips, T, D]."""
    return torch.randn(4, 4, 6, 3, generator=torch.Generator().manual_seed(1))


def small() -> ResidualVQ:
    torch.manual_seed(3)
    return ResidualVQ([6, 4], 3, ema_decay=0.8, kmeans_init=False).train()


def run_rank(rank: int, folder: Path, restart: bool) -> None:
    """Train on this rank's half of each batch and save the codebooks."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    vq = small()
    if restart:
        vq = ResidualVQ([32, 32], 3, ema_decay=0.8, restart_after=1).train()
    torch.manual_seed(rank)
    for batch in batches():
        vq(batch[2 * rank : 2 * rank + 2])
    torch.save(vq.state_dict(), folder / f"{rank}.pt")
    dist.destroy_process_group()


def two_ranks(folder: Path, restart: bool) -> list[dict[str, Tensor]]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run_rank, args=(rank, folder, restart)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_learn_what_one_learns_from_both_halves(tmp_path: Path) -> None:
    alone = small()
    for batch in batches():
        alone(batch)
    for state in two_ranks(tmp_path, restart=False):
        for name, expected in alone.state_dict().items():
            torch.testing.assert_close(state[name], expected, atol=1e-5, rtol=0)


def test_ranks_stay_equal_through_kmeans_and_restart(tmp_path: Path) -> None:
    first, second = two_ranks(tmp_path, restart=True)
    assert first["0.codebook.idle_steps"].max() >= 1
    for name, expected in first.items():
        assert torch.equal(second[name], expected), name
