"""The end of a stage, while its strategy still stands: proof of what was frozen, and the weights in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch

from bcaudio.checkpoint import write_fingerprint
from bcaudio.strategies.export import write_weights
from bcaudio.strategies.sharding import LazyTensor, sha256_of, whole_tensors
from bcaudio.training.lora import LoRA, plain_name


class Handover(L.Callback):
    """SHA-256 of the frozen parameters before the first and after the last step; then `model.safetensors` and `fingerprint.json`.

    Works under every strategy, part by part: a parameter that lies in pieces is whole only while it is hashed or written. The
    first hash of the stage goes into its checkpoints, so that the proof spans all attempts.

    Args:
        out: stage folder.
        fingerprint: for `fingerprint.json`.
        report: told the proof as far as it goes: `sha256_before`, later `sha256_after`.
        lora: of the model, if it has adapters. They are merged as the weights are written; the proof is over the weights beneath.
    """

    def __init__(
        self,
        out: Path,
        fingerprint: Mapping[str, Any],
        report: Callable[[dict[str, str]], None],
        lora: LoRA | None = None,
    ) -> None:
        self.out, self.fingerprint, self.report, self.lora = out, fingerprint, report, lora
        self.proof: dict[str, str] = {}
        self._dtypes: dict[str, torch.dtype] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        # what the strategy makes of them under bf16 is not what the next stage shall get
        self._dtypes = {name: tensor.dtype for name, tensor in pl_module.model.state_dict().items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = sha256_of(frozen(pl_module))
        if self.proof.setdefault("sha256_before", found) != found:
            raise ValueError(
                f"{self.out}: the frozen tensors of the checkpoint have SHA-256 {found[:12]}, but the stage began with "
                f"{self.proof['sha256_before'][:12]}; delete {self.out / 'checkpoints'} and begin anew"
            )
        self.report(dict(self.proof))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.proof["sha256_after"] = sha256_of(frozen(pl_module))
        self.report(dict(self.proof))
        if self.proof["sha256_after"] != self.proof["sha256_before"]:
            raise ValueError(
                f"{self.out}: a frozen tensor changed (SHA-256 {self.proof['sha256_before'][:12]} before, "
                f"{self.proof['sha256_after'][:12]} after); this is a defect, please report it"
            )
        tensors = whole_tensors(pl_module.model, self._dtypes)
        tensors = tensors if self.lora is None else self.lora.merged(tensors)
        digest = write_weights(self.out, tensors, writes=trainer.is_global_zero)
        if trainer.is_global_zero:
            write_fingerprint(self.out, {**self.fingerprint, "weights_sha256": digest})
            pl_module.export(str(self.out))
        trainer.strategy.barrier("handover")

    def state_dict(self) -> dict[str, Any]:
        return {"sha256_before": self.proof["sha256_before"]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.proof["sha256_before"] = state_dict["sha256_before"]


def frozen(module: L.LightningModule) -> dict[str, LazyTensor]:
    """The parameters of a stage's model that must not change, whole, by the names they have without adapters."""
    tensors = whole_tensors(module.model)
    names = [name for name, parameter in module.model.named_parameters() if not parameter.requires_grad]
    return {plain_name(name): tensors[name] for name in names}
