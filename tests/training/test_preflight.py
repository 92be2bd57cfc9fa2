"""What must hold on every rank before the first step, with injected faults."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from bcaudio.training.preflight import GIB, Needs, PreflightError, RankFacts, check, facts_of_rank, needs_of, problems

NOTHING = Needs(0, 0)


def ranks(count: int = 4, **changes: dict[int, Any]) -> list[RankFacts]:
    """Ranks without a fault, two on a host; `changes` are field -> {rank: value}."""
    found = [
        RankFacts(r, f"host{r // 2}", 1000.0, f"host{r // 2}:1", 10 * GIB, 8 * GIB, False, {"torch": "2.13", "recipe": "a"})
        for r in range(count)
    ]
    for field, values in changes.items():
        for number, value in values.items():
            found[number] = replace(found[number], **{field: value})
    return found


def test_ranks_without_a_fault_have_no_problem() -> None:
    assert problems(ranks(), Needs(disk=10 * GIB, memory=4 * GIB)) == []


def test_another_version_and_another_recipe_are_named_with_their_ranks() -> None:
    found = problems(ranks(same={1: {"torch": "2.12", "recipe": "a"}, 3: {"torch": "2.12", "recipe": "b"}}), NOTHING)
    assert found == [
        "rank 3 (host1): recipe is b, but a on 3 of 4; make them equal",
        "ranks 1, 3 (host0, host1): torch is 2.12, but 2.13 on 2 of 4; make them equal",
    ]


def test_a_clock_that_is_off_is_named_either_way() -> None:
    found = problems(ranks(clock_s={0: 1006.0, 2: 993.5}), NOTHING, max_clock_skew_s=5.0)
    assert [line.split(";")[0] for line in found] == [
        "rank 0 (host0): the clock is +6.0 s off the others', the limit is 5 s",
        "rank 2 (host1): the clock is -6.5 s off the others', the limit is 5 s",
    ]


def test_a_full_disk_is_named_with_need_and_rest_where_it_is_written_to() -> None:
    full = ranks(free_disk={2: GIB, 3: GIB})
    assert problems(full, Needs(8 * GIB, 0)) == []  # rank 0 alone writes
    (line,) = problems(full, Needs(8 * GIB, 0, sharded=True))  # two of four parts each
    assert line.startswith("ranks 2, 3 (host1): checkpoints need 4.00 GiB of disk, 1.00 GiB are free")


def test_memory_of_a_host_is_shared_by_its_ranks_and_a_gpu_is_not() -> None:
    (first, second) = problems(ranks(), Needs(0, 5 * GIB))
    assert first.startswith("ranks 0, 1 (host0): gradients and optimizer need 10.00 GiB of host memory, 8.00 GiB are free")
    assert second.startswith("ranks 2, 3 (host1)")
    gpus = ranks(on_gpu=dict.fromkeys(range(4), True), free_memory={1: 4 * GIB})
    (line,) = problems(gpus, Needs(0, 5 * GIB))
    assert line.startswith("rank 1 (host0): gradients and optimizer need 5.00 GiB of GPU memory, 4.00 GiB are free")


def test_all_problems_are_told_at_once() -> None:
    bad = ranks(clock_s={1: 0.0}, free_disk={0: 0}, same={2: {"torch": "1", "recipe": "a"}})
    with pytest.raises(PreflightError, match=r"(?s)3 problems before the first step\n.*torch is 1.*\n.*clock.*\n.*disk"):
        check(bad, Needs(GIB, 0))


def test_needs_count_weights_moments_and_copies() -> None:
    model = nn.Linear(10, 10, bias=True)  # 110 parameters, 440 bytes
    model.bias.requires_grad_(False)
    assert needs_of(model, keep=2) == Needs(disk=3 * (440 + 800) + 440, memory=800 + 400)
    assert needs_of(model, keep=2, on_gpu=True).memory == 800 + 400 + 440


def test_the_facts_of_a_folder_that_is_not_there_yet_are_those_of_its_parent(tmp_path: Path) -> None:
    facts = facts_of_rank(tmp_path / "runs" / "new", {}, clock=lambda: 7.0, host="h")
    assert (facts.host, facts.clock_s, facts.rank) == ("h", 7.0, 0)
    assert facts.free_disk > 0
    assert 0 < facts.free_memory < 2**50
