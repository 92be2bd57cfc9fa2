"""What every metric of items does: sums over real processes, rows, resets."""

import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bcaudio.metrics import BLEU, Accuracy, ChoiceAccuracy, ChrF, CountingMetric, ErrorRate, Mean, MelDistance, Perplexity

NUM = 23
_rng = random.Random(0)
TEXTS = [" ".join(_rng.choices(["one", "two", "three", "four"], k=_rng.randint(1, 9))) for _ in range(2 * NUM)]
# magnitudes so unlike that float sums depend on their order
FIGURES = [_rng.random() * 10.0 ** _rng.randint(-6, 4) for _ in range(NUM)]
IDS = [f"item-{n}" for n in range(NUM)]


def texts(metric: Any, n: int) -> None:
    metric.update([TEXTS[n]], [TEXTS[NUM + n]], [IDS[n]])


def mels(metric: Any, n: int) -> None:
    drawn = torch.randn(2, 1, 8, n + 1, generator=torch.Generator().manual_seed(n)) * FIGURES[n]
    metric.update(drawn[0], drawn[1], torch.tensor([n + 1]), [IDS[n]])


METRICS: dict[str, tuple[Callable[[], CountingMetric], Callable[[Any, int], None]]] = {
    "wer": (lambda: ErrorRate("en"), texts),
    "bleu": (lambda: BLEU("en"), texts),
    "chrf": (lambda: ChrF("en", 2), texts),
    "accuracy": (Accuracy, lambda metric, n: metric.update([_half(n)], [IDS[n]])),
    "choice": (ChoiceAccuracy, lambda metric, n: metric.update([FIGURES[n]], [[1.0, 2.0]], [IDS[n]])),
    "mel": (MelDistance, mels),
    "mel_lsd": (lambda: MelDistance("lsd"), mels),
    "mean": (lambda: Mean("x"), lambda metric, n: metric.update([FIGURES[n]], [IDS[n]])),
    "perplexity": (Perplexity, lambda metric, n: metric.update(-FIGURES[n], n + 1, n + 2, IDS[n])),
}


def _half(n: int) -> float:
    return n % 7 / 6


def _report(rank: int, num_ranks: int, file: str) -> dict[str, Any]:
    """Reports over all ranks; each item was counted on one of them, and rank 2 of 3 has seen nothing."""
    if num_ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=num_ranks)
    found = {}
    for name, (make, add) in METRICS.items():
        metric = make()
        for n in reversed(range(NUM)) if num_ranks > 1 else range(NUM):
            if n % min(num_ranks, 2) == rank:
                add(metric, n)
        found[name] = (metric.report(), len(metric.ids), metric.count() > 0)
    if num_ranks > 1:
        dist.destroy_process_group()
    return found


def _rank(rank: int, num_ranks: int, file: str, queue: Any) -> None:
    queue.put((rank, _report(rank, num_ranks, file)))


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_any_number_of_ranks_gives_bit_identical_reports_and_each_keeps_its_rows(num_ranks: int, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    arguments = (num_ranks, str(tmp_path / "store"), queue)
    processes = [context.Process(target=_rank, args=(rank, *arguments)) for rank in range(num_ranks)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    alone = _report(0, 1, "")
    assert alone["mean"][0]["x"] != 0
    for name, (report, count, _) in alone.items():
        for rank in range(num_ranks):
            assert found[rank][name][0] == report, (name, rank)
        counts = [found[rank][name][1] for rank in range(num_ranks)]
        assert counts == [12, 11, 0][:num_ranks], name
        assert [found[rank][name][2] for rank in range(num_ranks)] == [True, True, False][:num_ranks]
        assert count == NUM


def test_the_figures_of_that_test_would_differ_as_float_sums() -> None:
    forward, shared = 0.0, [0.0, 0.0]
    for n in range(NUM):
        forward += FIGURES[n]
    for n in reversed(range(NUM)):
        shared[n % 2] += FIGURES[n]
    assert forward != shared[0] + shared[1]


@pytest.mark.parametrize("name", METRICS)
def test_the_value_is_that_of_the_rows_sum_and_halves_add_up(name: str) -> None:
    make, add = METRICS[name]
    whole, first, second = make(), make(), make()
    for n in range(NUM):
        add(whole, n)
        add(first if n < 9 else second, n)
    value = whole.compute().item()
    assert np.isfinite(value)
    assert whole.value_of(whole.rows.sum(axis=0)) == pytest.approx(value, rel=1e-12)
    assert whole.rows.shape == (NUM, len(whole.statistics))
    first.merge_state(second)
    assert first.report() == whole.report()
    assert first.ids == whole.ids == IDS
    assert np.array_equal(first.rows, whole.rows)
    stacked = whole.value_of(np.stack([whole.rows[:5].sum(axis=0), whole.rows.sum(axis=0)]).reshape(2, 1, -1))
    assert stacked.shape == (2, 1)
    assert stacked[1, 0] == pytest.approx(value, rel=1e-12)
    whole.reset()
    assert (whole.count(), whole.ids, len(whole.rows)) == (0, [], 0)


def test_sums_beyond_float_precision_are_exact() -> None:
    metric = Perplexity()
    for _ in range(100):
        metric.update(-(2.0**31 - 2.0**-20), 1, 2**31 - 1)
    assert metric.sum_of("bytes") == 100 * (2**31 - 1)
    assert (int(metric.whole[0]), int(metric.parts[0])) == (100 * (2**31 - 1), 100 * (2**32 - 2**12))
    with pytest.raises(ValueError, match=r"bytes of 100 is 2147483648.*below 2\^31"):
        metric.update(-1.0, 1, 2**31)
    assert metric.count() == 100


def test_calling_a_metric_adds_and_gives_the_value_of_those_items_alone() -> None:
    metric = Mean("x")
    metric.update([1.0])
    assert metric([4.0, 5.0]).item() == 4.5
    assert metric.compute().item() == pytest.approx(10 / 3)
    assert len(metric.rows) == 3


def test_a_metric_of_another_class_cannot_be_added() -> None:
    with pytest.raises(ValueError, match="a Mean cannot be added"):
        Accuracy().merge_state(Mean("x"))
