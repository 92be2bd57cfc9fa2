"""One tiny Lightning run per callback."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bcaudio.callbacks import BleuCallback, CodebookHealth, ErrorRateCallback, NanGuard, NonFiniteLossError, StageProgress


@dataclass
class Batch:
    step: int
    value: float = 1.0
    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)

    @property
    def items(self) -> list[Any]:
        return [SimpleNamespace(sample=SimpleNamespace(key=f"clip-{self.step}-{i}")) for i in range(2)]


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(1, 1)
        self.last_codes: Tensor | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.last_codes = torch.tensor([[batch.step % 2, 0]])
        loss = self.model(torch.ones(1, 1)).sum() * batch.value
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Transcriber(Module):
    def transcribe(self, batch: Batch) -> list[tuple[str, str, str, str, str]]:
        return batch.rows


def loader(batches: list[Batch]) -> DataLoader:
    return DataLoader(batches, batch_size=None)


def trainer(folder: Path, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False, "logger": False}
    return L.Trainer(
        default_root_dir=folder, max_epochs=1, accelerator="cpu", devices=1, callbacks=list(callbacks), **{**quiet, **options}
    )


@pytest.fixture
def validation() -> list[Batch]:
    return [
        Batch(
            0, rows=[("a", "one two", "one two", "en", "asr"), ("b", "二", "二十", "zh", "asr"), ("c", "x", "nine", "en", "aqa")]
        ),
        Batch(
            1,
            rows=[
                ("d", "six", "six seven eight nine", "en", "asr"),
                ("e", "the cat sat on it", "the cat sat on it", "en", "s2tt"),
            ],
        ),
    ]


def test_error_rates_come_from_counts_over_all_batches(tmp_path: Path, validation: list[Batch]) -> None:
    callback = ErrorRateCallback(languages=["en", "zh", "fr"], tasks=["asr"])
    metrics = trainer(tmp_path, callback).validate(Transcriber(), loader(validation), verbose=False)[0]
    assert metrics == {"val/asr.en.wer": 0.5, "val/asr.zh.cer": 0.5}  # 3 errors in 6 words, not the mean of 0 and 3/4
    assert callback.reports["asr.en.wer"]["errors"] == 3
    assert callback.reports["asr.en.wer"]["reference_words"] == 6


def test_max_batches_bounds_what_is_transcribed(tmp_path: Path, validation: list[Batch]) -> None:
    callback = ErrorRateCallback(tasks=["asr"], max_batches=1)
    trainer(tmp_path, callback).validate(Transcriber(), loader(validation), verbose=False)
    assert callback.reports["asr.en.wer"]["reference_words"] == 2


def test_bleu_takes_the_translations_alone(tmp_path: Path, validation: list[Batch]) -> None:
    callback = BleuCallback()
    metrics = trainer(tmp_path, callback).validate(Transcriber(), loader(validation), verbose=False)[0]
    assert metrics == {"val/s2tt.en.bleu": pytest.approx(100.0)}
    assert callback.reports["s2tt.en.bleu"]["sentences"] == 1


def test_a_module_without_transcribe_is_refused_by_name(tmp_path: Path, validation: list[Batch]) -> None:
    with pytest.raises(TypeError, match=r"Module\.transcribe"):
        trainer(tmp_path, ErrorRateCallback()).validate(Module(), loader(validation), verbose=False)


def test_codebook_health_logs_the_usage_of_each_window(tmp_path: Path) -> None:
    callback = CodebookHealth([4, 4], every_n_steps=2)
    run = trainer(tmp_path, callback)
    run.fit(Module(), loader([Batch(step) for step in range(5)]))
    assert callback.report["used"] == [2, 1]
    assert callback.report["codes"] == [2, 2]
    assert callback.usage is not None
    assert callback.usage.count() == 2  # step 4 has begun the next window
    assert run.callback_metrics["codebook/used_0"] == 0.5
    assert run.callback_metrics["codebook/perplexity_0"] == pytest.approx(2.0)
    assert run.callback_metrics["codebook/perplexity_1"] == pytest.approx(1.0)


def test_codebook_health_asks_the_quantizer_for_its_sizes_and_leaves_padding_out(tmp_path: Path) -> None:
    callback = CodebookHealth(every_n_steps=1)
    codes, num_codes = torch.tensor([[[1], [2]], [[3], [0]]]), torch.tensor([2, 1])
    model = SimpleNamespace(quantizer=SimpleNamespace(codebook_sizes=[4]))
    module = SimpleNamespace(model=model, last_codes=codes, last_num_codes=num_codes, log=lambda *args, **options: None)
    callback.on_train_batch_end(None, module, None, None, 0)  # type: ignore[arg-type]
    assert callback.report["used"] == [3]
    assert callback.report["codes"] == [3]


def test_stage_progress_writes_the_steps_done_and_the_loss(tmp_path: Path) -> None:
    run = trainer(tmp_path, StageProgress(str(tmp_path), total=14, every_n_steps=5), limit_train_batches=4)
    run.fit(Module(), loader([Batch(step) for step in range(10, 14)]))  # a resumed run begins at step 10
    found = json.loads((tmp_path / "progress.json").read_text())
    assert (found["step"], found["total"]) == (14, 14)
    assert found["numbers"]["train/loss"] == pytest.approx(float(run.callback_metrics["train/loss"]))


def test_nan_guard_stops_before_the_weights_change_and_names_step_samples_and_last_finite_loss(tmp_path: Path) -> None:
    module = Module()
    before = module.model.weight.detach().clone()
    expected = module.model(torch.ones(1, 1)).item()
    with pytest.raises(NonFiniteLossError, match=r"step 2.*nan.*clip-2-0, clip-2-1") as caught:
        trainer(tmp_path, NanGuard()).fit(module, loader([Batch(0), Batch(1), Batch(2, float("nan"))]))
    assert f"{expected:.4g} at step 1" in str(caught.value)
    torch.testing.assert_close(module.model.weight, before)
    assert module.model.weight.grad is None or torch.isfinite(module.model.weight.grad).all()
