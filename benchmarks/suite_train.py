"""Training: the first batch far into a run, waiting for data, the step itself, export, how full rows are."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.profilers import SimpleProfiler
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.data import DataLoader

from bcaudio.data.batch import PackedBatch
from bcaudio.data.datamodule import DataModule, Source
from bcaudio.data.plan import PackPlan
from bcaudio.data.sequence import IGNORE
from bcaudio.data.shards import write_shards
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.strategies.export import export_checkpoint
from bcaudio.training.freezing import freeze_all_but
from benchmarks.measure import ROOT, Row, WrongResultError, alternate, check_close
from benchmarks.train_work import LargeIndex, log_normal, make_tokenizer, micro_samples, zero_checkpoint

LIMIT_S = 3.0


def first_batch(
    num_shards: int = 1000,
    samples_per_shard: int = 10_000,
    late: int = 1_000_000,
    rows: int = 64,
    ranks: int = 8,
    repeats: int = 7,
) -> list[Row]:
    """From the shards' paths to the first batch of a rank, at step 0 and at a late step of an index of 10,000,000 samples."""
    row_tokens, total = 8192, num_shards * samples_per_shard
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        index = LargeIndex(Path(name), num_shards, samples_per_shard, row_tokens)
        expected = {step: index.fill(step, rows, ranks) for step in (0, late)}

        def first(step: int) -> PackedBatch:
            return next(iter(index.data(step, rows, ranks).train_dataloader()))

        for step, keys in expected.items():
            batch = first(step)
            if (batch.step, [item.sample.key for item in batch.items]) != (step, keys):
                raise WrongResultError(f"the first batch at step {step} has other samples than planned")
        early_s, late_s = alternate(lambda: first(0), lambda: first(late), repeats=repeats)
    what = (
        f"{total} samples in {num_shards} shards, lengths measured before; indices and lengths opened, the plan made, "
        f"{len(expected[late])} samples read, tokenized and packed into {rows // ranks} rows of {row_tokens} tokens of one of "
        f"{ranks} ranks; files in the page cache"
    )
    return [
        Row("first_batch.growth", late_s, early_s, "s", late_s / early_s, "<=", 1.5, f"step {late}; peer: step 0; {what}"),
        Row("first_batch.seconds", late_s, LIMIT_S, "s", late_s, "<=", LIMIT_S, f"step {late}; peer: the limit; {what}"),
    ]


class _Times(SimpleProfiler):
    """Lightning's times of all its actions, without the printed report."""

    def describe(self) -> None:
        """Nothing."""


def _waiting(folder: Path, tokenizer: str, steps: int, way: dict[str, int]) -> tuple[float, float, int]:
    """Median seconds that a step of micro stage 2 waits for its batch and that it takes in all, and its tokens."""
    module, _, collate = _stage2(folder, tokenizer, steps)
    kinds = (
        ("numbers", "asr", 4),
        ("numbers", "s2tt", 4),
        ("narration", "tts", 6),
        ("stories", "intlv", 2),
        ("stories", "itts", 1),
    )
    sources = [Source(f"{folder}/{kind}-train-*.tar", task, weight) for kind, task, weight in kinds]
    data = DataModule(sources, collate, max_steps=steps, num_workers=2, **way)
    profiler, tokens = _Times(), []

    class Count(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: object, batch: PackedBatch, i: int):
            tokens.append(batch.input_ids.numel())

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, profiler=profiler, callbacks=[Count()], use_distributed_sampler=False, gradient_clip_val=1.0,
    )  # fmt: skip
    trainer.fit(module, data)
    took = profiler.recorded_durations
    waited = took["[_TrainingEpochLoop].train_dataloader_next"][:steps]
    trained = took["run_training_batch"]
    if not len(waited) == len(trained) == len(tokens) == steps:
        raise WrongResultError(f"{steps} steps gave {len(trained)} times of training and {len(waited)} of waiting")
    settled = slice(steps // 5, None)  # the first batches meet workers that are still starting
    mean_wait, mean_step = float(np.mean(waited[settled])), float(np.mean(trained[settled]))
    return mean_wait, mean_wait + mean_step, round(float(np.mean(tokens)))


def data_time(steps: int = 60, count: int = 600) -> list[Row]:
    """How long a step of micro stage 2 waits for its data with two workers."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder)
        for kind, spans, words in (("numbers", (1, 2), (2, 9)), ("narration", (1, 2), (4, 12)), ("stories", (3, 5), (4, 8))):
            write_shards(micro_samples(kind, count, spans, words), folder, f"{kind}-train", 200, {})
        for kind, way in (("counted", {"batch_size": 32, "window": 8}), ("packed", {"rows": 8})):
            waited, step_s, tokens = _waiting(folder, tokenizer, steps, way)
            what = (
                f"model, losses and optimizer of recipes/micro/stage2.yaml in Lightning's loop, {way}, {tokens} tokens a step, 2 "
                f"workers, {os.cpu_count()} cores; mean of {steps} steps without the first fifth; peer: the whole step"
            )
            rows.append(Row(f"data_time.{kind}", waited, step_s, "s", waited / step_s, "<=", 0.03, what))
    return rows


def _stage2(folder: Path, tokenizer: str, steps: int) -> tuple[Any, list[Any], Any]:
    """Module, callbacks and collate of micro stage 2, built from its recipe with weights of seed 0."""
    takes = [f"takes.{name}={folder}" for name in ("llm", "codes", "text")]
    overrides = [*takes, f"takes.text_tokenizer={tokenizer}", f"out={folder}", f"max_steps={steps}", "init_from=[]"]
    recipe = load_recipe(ROOT / "recipes/micro/stage2.yaml", overrides)
    torch.manual_seed(0)
    model = build(recipe["model"])
    freeze_all_but(model, recipe["trainable"])
    module = build(recipe["module"], model=model, seed=0, **{name: build(recipe[name]) for name in ("optimizer", "losses")})
    callbacks = [build(node) for node in recipe["callbacks"] if "IntelligenceWatch" not in node["_target_"]]  # no test shards
    return module, callbacks, build(recipe["data"]["collate"])


class _Beat(L.Callback):
    """The clock and the loss at the end of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: PackedBatch, batch_idx: int
    ) -> None:
        self.times.append(time.perf_counter())
        self.losses.append(float(outputs["loss"]))


def _ours(folder: Path, tokenizer: str, batches: list[PackedBatch]) -> _Beat:
    """Lightning's loop with everything that the recipe of micro stage 2 hangs on it."""
    module, callbacks, _ = _stage2(folder, tokenizer, len(batches))
    beat = _Beat()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=CSVLogger(folder / "logs"), enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, callbacks=[*callbacks, beat], use_distributed_sampler=False,
        gradient_clip_val=1.0, log_every_n_steps=10, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))
    return beat


def _bare(folder: Path, tokenizer: str, batches: list[PackedBatch]) -> _Beat:
    """The same model in a loop of seven lines, with torch's own losses."""
    module, beat = _stage2(folder, tokenizer, len(batches))[0], _Beat()
    model, weights = module.model, torch.tensor(module.level_weights)
    made = module.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for batch in batches:
        hidden = model(batch.input_ids, codes=batch.codes, position_ids=batch.position_ids).hidden
        at, said = (batch.labels != IGNORE).nonzero(as_tuple=True), (batch.audio_labels[..., 0] != IGNORE).nonzero(as_tuple=True)
        loss = F.cross_entropy(model.text_logits(hidden[at]), batch.labels[at])
        frames = batch.audio_labels[said]
        levels = [
            F.cross_entropy(logits, frames[:, level], ignore_index=IGNORE, reduction="sum") / len(frames)
            for level, logits in enumerate(model.audio_logits(hidden[said], frames))
        ]
        loss = loss + (torch.stack(levels) * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        beat.times.append(time.perf_counter())
        beat.losses.append(float(loss))
    return beat


def step(steps: int = 24, rows: int = 24, count: int = 600, repeats: int = 5) -> list[Row]:
    """A step of micro stage 2 with all its callbacks, against forward, backward and optimizer of the bare model."""
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        folder = Path(name)
        tokenizer = make_tokenizer(folder)
        for kind, spans, words in (("numbers", (1, 2), (2, 9)), ("narration", (1, 2), (4, 12)), ("stories", (3, 5), (4, 8))):
            write_shards(micro_samples(kind, count, spans, words), folder, f"{kind}-train", 200, {})
        tasks = (("numbers", "asr"), ("numbers", "s2tt"), ("narration", "tts"), ("stories", "intlv"), ("stories", "itts"))
        sources = [Source(f"{folder}/{kind}-train-*.tar", task) for kind, task in tasks]
        data = DataModule(sources, _stage2(folder, tokenizer, steps)[2], max_steps=steps, rows=rows)
        batches = list(data.train_dataloader())
        took: list[tuple[float, float]] = []
        for _ in range(repeats + 1):
            ours, bare = _ours(folder, tokenizer, batches), _bare(folder, tokenizer, batches)
            check_close("losses of the steps", torch.tensor(ours.losses), torch.tensor(bare.losses), 2e-3)
            took.append(tuple(float(np.median(np.diff(beat.times)[2:])) for beat in (ours, bare)))
    ours_s, bare_s = (median(column) for column in zip(*took[1:], strict=True))
    tokens = round(float(np.mean([batch.input_ids.numel() for batch in batches])))
    what = (
        f"micro stage 2, callbacks of its recipe, a CSV log every 10 steps, {tokens} tokens a step in {rows} packed rows, "
        f"the same {steps} batches in memory, the same losses; medians of the steps of {repeats} runs in turn; peer: the model's "
        "forward, cross-entropies of torch, backward, clipping, AdamW and schedule in a plain loop"
    )
    return [Row("step.time", ours_s, bare_s, "s", ours_s / bare_s, "<=", 1.05, what)]


def export(hidden: int = 1536, layers: int = 8, repeats: int = 5) -> list[Row]:
    """One model.safetensors out of a checkpoint under ZeRO, against writing that file from memory."""
    with tempfile.TemporaryDirectory(prefix="bcaudio-") as name:
        folder = Path(name)
        checkpoint, weights = zero_checkpoint(folder / "stage", hidden, layers)

        def ours() -> None:
            shutil.rmtree(folder / "out", ignore_errors=True)
            export_checkpoint(checkpoint, folder / "out")

        def write() -> None:
            (folder / "peer.safetensors").unlink(missing_ok=True)
            save_file(weights, folder / "peer.safetensors")
            with open(folder / "peer.safetensors", "rb") as file:
                os.fsync(file.fileno())  # as ours

        ours_s, write_s = alternate(ours, write, repeats=repeats)
        made = load_file(folder / "out" / "model.safetensors")
        if made.keys() != weights.keys() or not all(torch.equal(made[key], weights[key]) for key in weights):
            raise WrongResultError("the exported weights are not those of the checkpoint")
    num_bytes = sum(tensor.numel() * 4 for tensor in weights.values())
    what = (
        f"{num_bytes / 2**30:.2f} GiB of fp32 weights in two ranks' files of ZeRO-2, with SHA-256 of all tensors and fsync; "
        f"median of {repeats}; peer: safetensors' save_file of the same tensors in memory, with fsync"
    )
    return [Row("export.seconds", ours_s, write_s, "s", ours_s / write_s, "<=", 3.0, what)]


def fill(steps: int = 200) -> list[Row]:
    """How full packed rows are with lengths as of real clips, and how unlike the ranks."""
    rows = []
    for row_tokens in (4096, 8192):
        rng = np.random.default_rng(1)
        tokens = [log_normal(rng, 50_000, row_tokens, sigma=sigma) for sigma in (0.6, 1.0)]
        plan = PackPlan(tokens, [[1000] * 50] * 2, [3, 1], rows=64, row_tokens=row_tokens, seed=0)
        made = [plan.step(step) for step in range(steps)]
        filled = sum(row.num_tokens for rows_ in made for row in rows_) / (sum(map(len, made)) * row_tokens)
        what = (
            f"{steps} steps of 64 rows of {row_tokens}; two sources in the ratio 3 to 1, lengths log-normal with mean 300 and "
            "sigma 0.6 and 1.0; no document cut"
        )
        rows.append(Row(f"fill.{row_tokens}", filled, 1.0, "share", filled, ">=", 0.97, f"{what}; peer: rows without padding"))
        spread = max(
            max(ranks) / min(ranks)
            for ranks in (
                [sum(row.num_tokens for row in plan.share(step, rank, 32, 1)[0]) for rank in range(32)]
                for step in range(0, steps, 10)
            )
        )
        note = f"tokens of the fullest of 32 ranks over those of the emptiest, worst of {steps // 10} steps; {what}"
        rows.append(Row(f"fill.{row_tokens}.ranks", spread, 1.0, "ratio", spread, "<=", 1.02, f"{note}; peer: equal ranks"))
    return rows


ENTRIES: dict[str, Callable[[], list[Row]]] = {
    "first_batch": first_batch,
    "data_time": data_time,
    "step": step,
    "export": export,
    "fill": fill,
}
