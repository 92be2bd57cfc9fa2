"""`bcaudio train RECIPE`: one stage, from its recipe to its folder."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies import Strategy

from bcaudio.callbacks.preemption import Preempted, Preemption
from bcaudio.callbacks.preflight import Preflight
from bcaudio.callbacks.stage_progress import StageProgress
from bcaudio.checkpoint import check_fingerprint, init_from, read_fingerprint
from bcaudio.data.datamodule import DataModule
from bcaudio.recipe.build import build
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.load import load_recipe
from bcaudio.recipe.record import is_rank_zero, stage_key, stage_record
from bcaudio.training.freezing import freeze_all_but, frozen_tensors
from bcaudio.training.handover import Handover
from bcaudio.training.metrics_log import join_metrics, set_metrics_aside
from bcaudio.training.resume import Checkpoints, find_checkpoint
from bcaudio.training.stage import StageModule


def train(path: str, overrides: Sequence[str] = ()) -> int:
    """Train one stage; a run that was cut off goes on from its last checkpoint.

    Under several processes (torchrun, or Lightning's own launcher) every one runs all of this; rank 0 alone writes.

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
        strategy = _strategy(recipe)
        module, data = _parts(recipe, strategy)
        record.add(**_counts(module, recipe.get("trainable")))
        num_frozen = record.content["frozen"]["num_parameters"]
        handover = Handover(
            out,
            fingerprint,
            lambda proof: record.add(frozen={"num_parameters": num_frozen, **proof}),
            lora=build(recipe["lora"], "lora") if recipe.get("lora") else None,
        )
        resume_from = find_checkpoint(out / "checkpoints")
        earlier = set_metrics_aside(out) if is_rank_zero() else []
        trainer = _trainer(recipe, out, data, strategy, handover)
        try:
            trainer.fit(module, data, ckpt_path=resume_from, weights_only=True)
        except Preempted:
            raise
        except SystemExit:  # how Lightning leaves after Ctrl-C or SIGTERM
            raise KeyboardInterrupt from None
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            join_metrics(out, earlier)
        record.add(steps=module.next_step, metrics=metrics)
        record.add(gate=_gate(recipe, metrics))
        if trainer.is_global_zero:
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


def _strategy(recipe: Mapping[str, Any]) -> Strategy | str:
    """`trainer.strategy`: a name of Lightning's, or a class such as bcaudio.strategies.deepspeed.ZeRO."""
    node = recipe.get("trainer", {}).get("strategy", "auto")
    return build(node, "trainer.strategy") if isinstance(node, Mapping) else node


def _parts(recipe: Mapping[str, Any], strategy: Strategy | str) -> tuple[StageModule, DataModule]:
    # a model that the strategy keeps in pieces has memory on rank 0 alone until it is parted
    only_names = getattr(strategy, "shards_parameters", False) and not is_rank_zero()
    with torch.device("meta") if only_names else nullcontext():
        model = build(recipe["model"])
    for source in recipe.get("init_from", []):
        report = init_from(model, **source)
        if is_rank_zero():
            print(f"init_from {source['folder']}: {report}", flush=True)
    with torch.device("meta") if only_names else nullcontext():
        if recipe.get("lora"):
            build(recipe["lora"], "lora").apply(model, recipe.get("trainable"))
        else:
            freeze_all_but(model, recipe.get("trainable"))
    parts = {name: build(recipe[name]) for name in ("optimizer", "losses") if name in recipe}
    module = build(recipe["module"], model=model, seed=recipe["seed"], **parts)
    return module, build(recipe["data"], seed=recipe["seed"])


def _counts(module: StageModule, patterns: Sequence[str] | None) -> dict[str, Any]:
    """What the record says of trained and frozen parameters."""
    names = sorted(name for name, parameter in module.named_parameters() if parameter.requires_grad)
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    num_frozen = sum(tensor.numel() for tensor in frozen_tensors(module.model).values())
    return {
        "trainable": {"num_parameters": trained, "patterns": patterns, "names_sample": names[:8]},
        "frozen": {"num_parameters": num_frozen},
    }


def _trainer(recipe: Mapping[str, Any], out: Path, data: DataModule, strategy: Strategy | str, handover: Handover) -> L.Trainer:
    options = dict(recipe.get("trainer", {}))
    options.pop("strategy", None)
    kept = {"every": recipe.get("checkpoint_every", 200), **recipe.get("checkpoints", {})}
    checkpoints = Checkpoints(out / "checkpoints", **kept)
    callbacks = [
        Preflight(str(out), same={"recipe": stage_key(recipe, {})}, keep=checkpoints.keep_last or 2),
        checkpoints,
        LearningRateMonitor(),
        StageProgress(str(out), data.max_steps),
        Preemption(checkpoints),
        *(build(node) for node in recipe.get("callbacks", [])),
        handover,
    ]
    accumulate = getattr(data, "accumulate", 1)
    if isinstance(options.get("val_check_interval"), int):
        options["val_check_interval"] *= accumulate  # the recipe counts steps, Lightning batches
    if torch.distributed.is_torchelastic_launched():  # the launcher says how many ranks there are; the recipe stays the same
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        options |= {"devices": devices, "num_nodes": int(os.environ["WORLD_SIZE"]) // devices}
    return L.Trainer(
        default_root_dir=out,
        max_epochs=1,  # the data module ends the epoch after max_steps batches
        accelerator=options.pop("accelerator", "auto"),
        devices=options.pop("devices", 1),
        strategy=strategy,
        accumulate_grad_batches=accumulate,
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
