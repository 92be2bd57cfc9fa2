"""Speed, packing and gradient norms against numbers worked out by hand."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bcaudio.callbacks.throughput import Throughput, peak_of
from bcaudio.data.batch import PackedBatch, pack
from bcaudio.data.sequence import TokenSequence

EOS, PAD = 0, 6


def document(num_text: int, num_frames: int) -> TokenSequence:
    """Text, audio frames, end of text: num_text + num_frames + 1 tokens."""
    ids = np.array([7] * num_text + [PAD] * num_frames + [EOS])
    return TokenSequence(ids, np.zeros((num_frames, 2), np.int64), np.full(len(ids), -100), np.full((len(ids), 2), -100))


def batch(*documents: tuple[int, int], step: int = 0, micro: int = 0, num_micro: int = 1) -> PackedBatch:
    items: list[Any] = [SimpleNamespace(sample=SimpleNamespace(key="k"), task="asr") for _ in documents]
    packed = pack([document(*sizes) for sizes in documents], 16, EOS, items)
    return replace(packed, step=step, micro=micro, num_micro=num_micro)


class Slow(IterableDataset):
    def __init__(self, batches: Sequence[Any], seconds: float) -> None:
        self.batches, self.seconds = batches, seconds

    def __iter__(self) -> Any:
        for one in self.batches:
            time.sleep(self.seconds)
            yield one


class Module(L.LightningModule):
    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.model = nn.ModuleDict({"audio_embedding": nn.Linear(1, 1, bias=False), "audio_head": nn.Linear(1, 1, bias=False)})

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(self.seconds)
        one = torch.ones(1, 1)
        return 3 * self.model["audio_embedding"](one).sum() + 4 * self.model["audio_head"](one).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(0.5)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder: Path, callback: Throughput, batches: Sequence[Any], step_s: float = 0.0, data_s: float = 0.0, num_ranks: int = 1,
        val: Sequence[Any] = (), **options: Any) -> dict[str, float]:  # fmt: skip
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    trainer = L.Trainer(default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=num_ranks, callbacks=[callback],
                        strategy="ddp" if num_ranks > 1 else "auto", use_distributed_sampler=False, num_sanity_val_steps=0,
                        **quiet, **options)  # fmt: skip
    trainer.fit(Module(step_s), DataLoader(Slow(batches, data_s), batch_size=None), DataLoader(list(val), batch_size=None))
    return callback.values


@pytest.mark.parametrize(
    ("documents", "real"),
    [
        ([(3, 4)], 8),  # pack cuts the row to the longest: no padding
        ([(15, 0)], 16),
        ([(10, 5), (3, 4), (2, 2)], 29),  # rows of 16 and of 8 + 5 with 3 of padding
        ([(10, 5), (10, 4)], 31),  # one slot of padding
    ],
)
def test_real_tokens_are_all_but_the_tails(documents: list[tuple[int, int]], real: int) -> None:
    assert batch(*documents).num_tokens == real


def test_tokens_by_modality_fill_and_hours_are_sums_over_the_window(tmp_path: Path) -> None:
    rows = [(10, 5), (3, 4), (2, 2)]  # 29 real tokens in 32 slots, of them 11 frames
    values = fit(tmp_path, Throughput(every_n_steps=4), [batch(*rows, step=step) for step in range(4)], step_s=0.05)
    rate = values["throughput/steps_per_s"]
    assert 10 < rate < 20  # steps of 50 ms and a little
    assert values["throughput/text_tokens_per_s"] == pytest.approx(18 * rate)
    assert values["throughput/audio_tokens_per_s"] == pytest.approx(11 * rate)
    assert values["throughput/audio_hours_per_s"] == pytest.approx(11 / 12.5 / 3600 * rate)
    assert values["throughput/packing_fill"] == pytest.approx(29 / 32)
    assert 0.01 < values["throughput/memory_gib"] < 20
    assert "throughput/mfu" not in values


def test_micro_batches_make_one_step(tmp_path: Path) -> None:
    batches = [batch((3, 4), step=step, micro=micro, num_micro=2) for step in range(2) for micro in range(2)]
    values = fit(tmp_path, Throughput(every_n_steps=2), batches, step_s=0.02, accumulate_grad_batches=2)
    assert values["throughput/audio_tokens_per_s"] == pytest.approx(8 * values["throughput/steps_per_s"])


def test_mfu_is_flops_over_peak(tmp_path: Path) -> None:
    callback = Throughput(every_n_steps=2, flops_per_token=1e6, peak_flops=1e9)
    values = fit(tmp_path, callback, [batch((3, 4), step=step) for step in range(2)], step_s=0.02)
    assert values["throughput/mfu"] == pytest.approx(8 * values["throughput/steps_per_s"] * 1e6 / 1e9)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L40S", 362e12),
        ("Some New Device", None),
    ],
)
def test_the_peak_of_a_known_gpu_is_found_by_its_name(name: str, peak: float | None) -> None:
    assert peak_of(name) == peak


def test_gradient_norms_of_each_part_and_in_total(tmp_path: Path) -> None:
    values = fit(tmp_path, Throughput(every_n_steps=1), [batch((3, 4))])
    norms = {name: value for name, value in values.items() if name.startswith("grad_norm/")}
    assert norms == {"grad_norm/audio_embedding": 3.0, "grad_norm/audio_head": 4.0, "grad_norm/total": 5.0}


def test_waiting_for_data_is_told_apart_from_the_step_and_validation_counts_as_neither(tmp_path: Path) -> None:
    batches = [batch((3, 4), step=step) for step in range(5)]
    values = fit(tmp_path, Throughput(every_n_steps=5), batches, 0.06, 0.02, val=[batch((1, 1))], val_check_interval=2,
                 check_val_every_n_epoch=None)  # fmt: skip
    assert values["throughput/data_share"] == pytest.approx(0.25, abs=0.06)
    assert values["throughput/steps_per_s"] == pytest.approx(12.5, abs=1.5)  # 80 ms, without the half seconds of validation


def test_a_profiler_of_the_recipe_is_left_in_place(tmp_path: Path) -> None:
    values = fit(tmp_path, Throughput(every_n_steps=1), [batch((3, 4))], profiler=SimpleProfiler(filename="profile"))
    assert "throughput/data_share" not in values


def test_audio_batches_give_hours(tmp_path: Path) -> None:
    clips = SimpleNamespace(lengths={16000: torch.tensor([16000, 8000])}, step=0)
    values = fit(tmp_path, Throughput(every_n_steps=1), [clips])
    assert values["throughput/audio_hours_per_s"] == pytest.approx(1.5 / 3600 * values["throughput/steps_per_s"])
    assert "throughput/packing_fill" not in values


def test_two_ranks_are_summed(tmp_path: Path, run_ranks: Any) -> None:
    def rank_fit(rank: int) -> None:
        rows = [(10, 5), (3, 4), (2, 2)] if rank == 0 else [(15, 0)]
        values = fit(tmp_path, Throughput(every_n_steps=2), [batch(*rows, step=step) for step in range(2)], 0.03, num_ranks=2)
        (tmp_path / f"rank{rank}.json").write_text(json.dumps(values))

    ended = run_ranks(rank_fit)
    assert ended.codes == [0, 0], ended.errors
    values, others = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    names = ("text_tokens_per_s", "audio_tokens_per_s", "packing_fill", "memory_gib", "data_share", "audio_hours_per_s")
    assert all(values[f"throughput/{name}"] == others[f"throughput/{name}"] for name in names)
    assert values["throughput/packing_fill"] == pytest.approx((29 + 16) / (32 + 16))
    assert values["throughput/text_tokens_per_s"] / values["throughput/audio_tokens_per_s"] == pytest.approx((18 + 16) / 11)
    assert values["throughput/text_tokens_per_s"] == pytest.approx(34 * values["throughput/steps_per_s"], rel=0.05)
