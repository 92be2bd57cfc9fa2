"""Steps that would spoil the weights: skipped alike on every rank, their samples named, and the run stopped after too many."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcaudio.callbacks.nan_guard import NanGuard, NonFiniteLossError

NAN = float("nan")


@dataclass
class Batch:
    step: int
    value: float = 1.0
    micro: int = 0
    num_micro: int = 1
    name: str = "clip"
    items: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.items = [SimpleNamespace(sample=SimpleNamespace(key=f"{self.name}-{self.step}-{self.micro}"), task="asr")]


class Module(L.LightningModule):
    """loss = value * (w * x + b)^2 with x = step + 1; AdamW with weight decay and a schedule, which all must survive a skip."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Linear(1, 1)
        self.register_buffer("mean", torch.zeros(1))
        self.spoil = False
        self.rates: list[float] = []
        self.weights: list[float] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = batch.value * self.model(torch.full((1, 1), batch.step + 1.0)).square().sum()
        if self.spoil:
            self.mean += loss.detach()
        return loss

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.weights.append(self.model.weight.item())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, weight_decay=0.5)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(folder: Path, guard: NanGuard, batches: Sequence[Batch], num_ranks: int = 1, accumulate: int = 1) -> Module:
    module = Module()
    run(folder, guard, module, batches, num_ranks, accumulate)
    return module


def run(folder: Path, guard: NanGuard, module: Module, batches: Sequence[Batch], num_ranks: int = 1, accumulate: int = 1) -> None:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=num_ranks, callbacks=[guard],
                        strategy="ddp" if num_ranks > 1 else "auto", use_distributed_sampler=False,
                        accumulate_grad_batches=accumulate, gradient_clip_val=1.0 if module.automatic_optimization else None,
                        **quiet)  # fmt: skip
    trainer.fit(module, DataLoader(list(batches), batch_size=None))


def by_hand(steps: Sequence[int], total: int) -> tuple[float, list[float]]:
    """The weight after AdamW has seen `steps` alone, while the schedule ran over all `total`."""
    module = Module()
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.5)
    rates = [0.1 / (1 + step) for step in range(total)]
    for step in steps:
        optimizer.param_groups[0]["lr"] = rates[step]
        optimizer.zero_grad()
        module.model(torch.full((1, 1), step + 1.0)).square().sum().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return module.model.weight.item(), rates


def test_a_skipped_step_changes_no_weight_and_no_moment_while_schedule_and_data_go_on(tmp_path: Path) -> None:
    guard = NanGuard(max_skips=2)
    module = fit(tmp_path, guard, [Batch(0), Batch(1), Batch(2, NAN), Batch(3), Batch(4, float("inf")), Batch(5)])
    expected, rates = by_hand([0, 1, 3, 5], total=6)
    assert module.weights[2] == module.weights[1]
    assert module.weights[-1] == pytest.approx(expected, abs=1e-7)
    assert module.rates == pytest.approx(rates)
    assert [entry["step"] for entry in guard.skipped] == [2, 4]
    lines = [json.loads(line) for line in (tmp_path / "logs" / "skipped.jsonl").read_text().splitlines()]
    assert [line["samples"][0]["keys"] for line in lines] == [["clip-2-0"], ["clip-4-0"]]


def test_one_skip_too_many_stops_with_the_list_of_all(tmp_path: Path) -> None:
    batches = [Batch(0), Batch(1, NAN), Batch(2), Batch(3, NAN), Batch(4, NAN)]
    with pytest.raises(
        NonFiniteLossError, match=r"3 bad steps within 10, max_skips is 2: step 1.*clip-1-0 \(asr\).*step 4.*clip-4"
    ):
        fit(tmp_path, NanGuard(max_skips=2, window=10), batches)


def test_skips_outside_of_the_window_are_forgiven(tmp_path: Path) -> None:
    batches = [Batch(step, NAN if step % 3 == 0 else 1.0) for step in range(9)]
    guard = NanGuard(max_skips=1, window=3)
    fit(tmp_path, guard, batches)
    assert [entry["step"] for entry in guard.skipped] == [6]
    with pytest.raises(NonFiniteLossError, match="2 bad steps within 4"):
        fit(tmp_path, NanGuard(max_skips=1, window=4), batches)


def test_a_spike_is_judged_by_the_running_median_of_good_steps(tmp_path: Path) -> None:
    class Constant(Module):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            return batch.value + 0 * self.model(torch.ones(1, 1)).sum()

    guard, module = NanGuard(max_skips=3, spike=3.0, history=5), Constant()
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 9.1, 8.9]  # the median is 3 until 8.9 pushes 1.0 out
    run(tmp_path, guard, module, [Batch(step, value) for step, value in enumerate(values)])
    assert [entry["step"] for entry in guard.skipped] == [5]
    assert "9.1, more than 3 times its running median 3" in guard.skipped[0]["reason"]
    assert list(guard.losses) == pytest.approx([2, 3, 4, 5, 8.9])


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_skipped(tmp_path: Path) -> None:
    class Root(Module):
        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            zero = 0 * self.model(torch.ones(1, 1)).sum()
            return zero.abs().sqrt() if batch.step == 1 else zero  # d sqrt(x) / dx at 0 is inf; inf * 0 is NaN

    guard, module = NanGuard(max_skips=1), Root()
    before = module.model.weight.item()
    run(tmp_path, guard, module, [Batch(0), Batch(1)])
    assert [entry["reason"] for entry in guard.skipped] == ["the gradient is not finite"]
    assert module.weights[1] == module.weights[0] != before  # step 0 decays the weight, step 1 does not


def test_only_the_bad_micro_batch_is_named_and_its_whole_step_is_skipped(tmp_path: Path) -> None:
    batches = [Batch(step, NAN if (step, micro) == (1, 0) else 1.0, micro, 2) for step in range(3) for micro in range(2)]
    guard = NanGuard(max_skips=1)
    module = fit(tmp_path, guard, batches, accumulate=2)
    assert [part["keys"] for part in guard.skipped[0]["samples"]] == [["clip-1-0"]]
    assert module.weights[3] == module.weights[1]  # after step 1 as after step 0
    assert module.weights[5] != module.weights[3]


def test_a_buffer_that_the_forward_pass_has_spoilt_stops_the_run(tmp_path: Path) -> None:
    module = Module()
    module.spoil = True
    with pytest.raises(NonFiniteLossError, match=r"step 1.*the forward pass has spoilt mean"):
        run(tmp_path, NanGuard(max_skips=5), module, [Batch(0), Batch(1, NAN)])


def test_manual_optimization_stops_before_the_backward_pass(tmp_path: Path) -> None:
    class Manual(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Batch, batch_idx: int) -> None:
            loss, optimizer = super().training_step(batch, batch_idx), self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    module = Manual()
    with pytest.raises(NonFiniteLossError, match=r"step 1: the loss is nan; this module steps its optimizers by hand.*clip-1-0"):
        run(tmp_path, NanGuard(max_skips=5), module, [Batch(0), Batch(1, NAN)])
    assert torch.isfinite(module.model.weight).all()
    assert module.model.weight.grad is None or torch.isfinite(module.model.weight.grad).all()


def test_the_running_median_and_the_skips_survive_a_checkpoint() -> None:
    guard, other = NanGuard(max_skips=3), NanGuard(max_skips=3)
    guard.losses.extend([1.0, 2.0])
    guard.skipped, guard.last_finite = [{"step": 4, "reason": "r", "samples": []}], (3, 2.0)
    other.load_state_dict(guard.state_dict())
    assert (other.losses, other.skipped, other.last_finite) == (guard.losses, guard.skipped, guard.last_finite)


def test_two_ranks_skip_alike_when_one_has_a_nan_and_name_its_samples(tmp_path: Path, run_ranks: Any) -> None:
    def rank_fit(rank: int) -> None:
        batches = [Batch(step, NAN if (step, rank) == (1, 1) else 1.0, name=f"rank{rank}") for step in range(4)]
        guard = NanGuard(max_skips=1)
        module = fit(tmp_path, guard, batches, num_ranks=2)
        (tmp_path / f"rank{rank}.json").write_text(json.dumps([module.weights, guard.skipped]))

    ended = run_ranks(rank_fit)
    assert ended.codes == [0, 0], ended.errors
    (weights, skipped), (others, other_skipped) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert weights == others
    assert weights[-1] == pytest.approx(by_hand([0, 2, 3], total=4)[0], abs=1e-6)
    assert [part["keys"] for part in skipped[0]["samples"]] == [["rank1-1-0"]]
    assert skipped[0]["samples"][0]["rank"] == other_skipped[0]["samples"][0]["rank"] == 1


def test_two_ranks_stop_alike_when_there_are_too_many(tmp_path: Path, run_ranks: Any) -> None:
    def rank_fit(rank: int) -> None:
        fit(
            tmp_path,
            NanGuard(),
            [Batch(step, NAN if (step, rank) == (2, 1) else 1.0, name=f"rank{rank}") for step in range(4)],
            2,
        )

    ended = run_ranks(rank_fit, limit_s=20.0)
    assert ended.codes == [1, 1]
    assert all("step 2: the loss is nan" in error and "rank 1, loss nan: rank1-2-0 (asr)" in error for error in ended.errors)


@pytest.mark.parametrize("options", [{"max_skips": -1}, {"window": 0}, {"spike": 1.0}, {"history": 0}])
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_skips must be at least 0"):
        NanGuard(**options)
