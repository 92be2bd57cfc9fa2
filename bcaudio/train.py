"""`bcaudio train RECIPE`: one stage, from its recipe to its folder."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from bcaudio.callbacks.stage_progress import StageProgress
from bcaudio.checkpoint import check_fingerprint, init_from, read_fingerprint, save_model, tensor_sha256
from bcaudio.data.datamodule import DataModule
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import stage_record
from bcaudio.training.freezing import freeze_all_but, frozen_tensors
from bcaudio.training.metrics_log import join_metrics, set_metrics_aside
from bcaudio.training.stage import StageModule


def train(path: str, overrides: Sequence[str] = ()) -> int:
    """Train one stage; a run that was cut off goes on from its last checkpoint.

    Args:
        path: the recipe; overrides: dotted `key=value`.

    Raises:
        RecipeError: anything wrong in the recipe, before anything runs.
        ValueError: a fingerprint that does not fit, a frozen tensor that changed, a gate that is not met.
    """
    recipe = load_recipe(path, overrides)
    check_recipe(recipe, path)
    out = Path(recipe["out"])
    takes = {name: Path(folder) for name, folder in recipe.get("takes", {}).items()}
    with stage_record(out, recipe, takes) as record:
        torch.set_num_threads(int(recipe.get("threads", 1)))
        fingerprint = dict(recipe.get("fingerprint", {}))
        _check_takes(recipe["name"], takes, fingerprint)
        L.seed_everything(recipe["seed"], workers=True, verbose=False)
        module, data = _parts(recipe)
        frozen = frozen_tensors(module.model)
        proof = {"num_parameters": sum(tensor.numel() for tensor in frozen.values()), "sha256_before": tensor_sha256(frozen)}
        names = sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)
        num_trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        patterns = recipe.get("trainable")
        record.add(trainable={"num_parameters": num_trained, "patterns": patterns, "names_sample": names[:8]}, frozen=proof)
        earlier = set_metrics_aside(out)
        trainer = _trainer(recipe, out, data)
        try:
            trainer.fit(module, data, ckpt_path=_last_checkpoint(out), weights_only=True)
        except SystemExit:  # how Lightning leaves after Ctrl-C or SIGTERM
            raise KeyboardInterrupt from None
        join_metrics(out, earlier)
        proof |= {"sha256_after": tensor_sha256(frozen_tensors(module.model))}
        if proof["sha256_after"] != proof["sha256_before"]:
            raise ValueError(
                f"stage {recipe['name']}: a frozen tensor changed (SHA-256 {proof['sha256_before'][:12]} before, "
                f"{proof['sha256_after'][:12]} after); this is a defect, please report it"
            )
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        save_model(out, module.model, fingerprint)  # before the gate: what is trained is kept even where it misses its bound
        module.export(str(out))
        record.add(steps=module.next_step, metrics=metrics, frozen=proof)
        record.add(gate=_gate(recipe, metrics))
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return 0


def _check_takes(stage: str, takes: Mapping[str, Path], fingerprint: Mapping[str, Any]) -> None:
    """Every folder a stage takes must agree with the stage's own fingerprint in the keys that both have."""
    for name, folder in takes.items():
        if not folder.is_dir():
            raise FileNotFoundError(
                f"stage {stage} takes {name} from {folder}, which does not exist; run the stage that makes it first"
            )
        found = read_fingerprint(folder) if (folder / "fingerprint.json").is_file() else {}
        expected = {key: value for key, value in fingerprint.items() if key in found}
        check_fingerprint(expected, found, where=f"stage {stage} takes {name} from {folder}")


def _parts(recipe: Mapping[str, Any]) -> tuple[StageModule, DataModule]:
    model = build(recipe["model"])
    for source in recipe.get("init_from", []):
        report = init_from(model, **source)
        print(f"init_from {source['folder']}: {report}", flush=True)
    freeze_all_but(model, recipe.get("trainable"))
    parts = {name: build(recipe[name]) for name in ("optimizer", "losses") if name in recipe}
    module = build(recipe["module"], model=model, seed=recipe["seed"], **parts)
    return module, build(recipe["data"], seed=recipe["seed"])


def _trainer(recipe: Mapping[str, Any], out: Path, data: DataModule) -> L.Trainer:
    options = dict(recipe.get("trainer", {}))
    checkpoint = ModelCheckpoint(
        dirpath=out / "checkpoints",
        filename="step={step}",
        auto_insert_metric_name=False,
        every_n_train_steps=recipe.get("checkpoint_every", 200),
    )
    callbacks = [
        checkpoint,
        LearningRateMonitor(),
        StageProgress(str(out), data.max_steps),
        *(build(node) for node in recipe.get("callbacks", [])),
    ]
    strategy = options.pop("strategy", "auto")
    return L.Trainer(
        default_root_dir=out,
        max_epochs=1,  # the data module ends the epoch after max_steps batches
        accelerator=options.pop("accelerator", "auto"),
        devices=options.pop("devices", 1),
        strategy=build(strategy) if isinstance(strategy, Mapping) else strategy,
        logger=[CSVLogger(out, name="logs", version=""), TensorBoardLogger(out, name="logs", version="")],
        callbacks=callbacks,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=options.pop("log_every_n_steps", 10),
        enable_progress_bar=options.pop("enable_progress_bar", sys.stdout.isatty()),
        enable_model_summary=False,
        use_distributed_sampler=False,
        **options,
    )


def _last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint that can be read; one that was cut off while it was written is passed over."""
    for file in sorted((out / "checkpoints").glob("*.ckpt"), key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            torch.load(file, weights_only=True, map_location="meta")
        except Exception as error:  # whatever a damaged file raises
            print(f"{file}: not readable ({error}); trying an older one", flush=True)
            continue
        print(f"resuming from {file}", flush=True)
        return str(file)
    return None


def _gate(recipe: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """The stage's exit gate: `gate: {metric: {max: x}}` or `{min: x}`."""
    results = {}
    for name, bound in recipe.get("gate", {}).items():
        if name not in metrics:
            raise ValueError(f"gate: stage {recipe['name']} has no metric {name!r}; it has {', '.join(sorted(metrics))}")
        value = metrics[name]
        holds = bound.get("min", -float("inf")) <= value <= bound.get("max", float("inf"))
        results[name] = {"value": value, **bound, "holds": holds}
        if not holds:
            raise ValueError(
                f"gate: stage {recipe['name']} ended with {name} = {value:.4g}, but the recipe asks for {bound}; "
                "train longer or move the gate"
            )
    return results
