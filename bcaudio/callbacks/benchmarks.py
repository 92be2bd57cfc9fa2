"""Benchmarks of the evaluation suite while a model is still training."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch

from bcaudio.callbacks.together import everyones, from_rank_0, in_pieces, same_steps
from bcaudio.distributed import rank, world_size
from bcaudio.evaluation.benchmark import Benchmark, Examples, NotRunError, Output, Result, Scoring
from bcaudio.evaluation.inferring import ask_batch, batches_of, checked_items, seed_batch
from bcaudio.evaluation.scoring import score_benchmark
from bcaudio.evaluation.stored import Stored
from bcaudio.inference.system import System
from bcaudio.text import normalize


class LiveSystem(System):
    """The system around a model that is still training: the audio LLM is the module's own, not loaded from a folder.

    Args:
        module: an AudioLLMModule.
        parts: stage folders `tokenizer` (to hear what has no codes), `flow_decoder`, `vocoder`, `auditor`; options of System.
    """

    def __init__(self, module: Any, **parts: Any) -> None:
        self.module = module
        text_tokenizer = module.text_tokenizer.file.parent
        super().__init__(**{"tokenizer": None, **parts}, audio_llm=None, text_tokenizer=text_tokenizer, device=module.device)

    def use_audio_llm(self, folder: str | Path | None) -> None:
        """The module's own, whatever stage a benchmark names."""
        self.audio_llm, self.builder, self.generator = self.module.model, self.module.builder, self.module.generator


class Unkept(Examples):
    """Sounds are scored and forgotten."""

    def __init__(self) -> None:
        super().__init__(Path("."), Path("."), limit=0)

    def save(self, key: str, name: str, waveform: np.ndarray, sample_rate: int) -> str:
        return ""


class BenchmarkCallback(L.Callback):
    """Asks the model in training the items of benchmarks, in the batches and with the scores of `bcaudio evaluate`.

    Logs `<prefix>/<key>` for every figure; all of them with their counts go to `<folder>/<prefix>.jsonl`, one line per asking. A
    mode that needs a part the recipe does not give, as speech without a decoder, is left out, and said so once. A failed item is
    counted in `num_failed`.

    The batches are shared out over ranks; where weights lie in pieces (ZeRO-3, FSDP) every rank asks all, since each forward pass
    waits for all ranks. Rank 0 scores, so that a judge is asked once, and all ranks get its figures.

    Args:
        benchmarks: name -> benchmark (`_target_` in the recipe), as in a recipe of `bcaudio evaluate`.
        every_n_steps: how often; None asks at every validation.
        decoder: stage folders `tokenizer`, `flow_decoder`, `vocoder`, `auditor`, and options of System.
        folder: of the figures; None takes `logs` in the trainer's root folder.
        normalizer, judge: how answers are scored.
        seed: of sampled answers; the recipe's of `bcaudio evaluate` gives that command's.

    Raises:
        ValueError: no benchmark, or every_n_steps below 1.
    """

    prefix = "benchmark"

    def __init__(
        self,
        benchmarks: Mapping[str, Any],
        every_n_steps: int | None = None,
        decoder: Mapping[str, Any] | None = None,
        folder: str | None = None,
        normalizer: str = normalize.DEFAULT,
        judge: Any = None,
        seed: int = 0,
    ) -> None:
        if not benchmarks or (every_n_steps is not None and every_n_steps < 1):
            raise ValueError(
                f"{type(self).__name__}: {len(benchmarks)} benchmarks, every_n_steps {every_n_steps}; name at least one "
                "benchmark, and 1 step or more (or none for every validation)"
            )
        self.benchmarks: dict[str, Benchmark] = dict(benchmarks)
        self.every_n_steps, self.decoder, self.folder, self.seed = every_n_steps, dict(decoder or {}), folder, seed
        self.scoring = Scoring(normalize.normalizer(normalizer), judge)
        self.parts: dict[str, list[Benchmark]] = {name: [benchmark] for name, benchmark in self.benchmarks.items()}
        self.values: dict[str, float] = {}
        self.results: dict[str, Result] = {}
        self.not_run: dict[str, str] = {}
        self.system: LiveSystem | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the parts and find the items."""
        self.system = LiveSystem(pl_module, **self.decoder)
        self.items = {name: checked_items(name, benchmark) for name, benchmark in self.benchmarks.items()}
        self.in_pieces = in_pieces(pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.system is not None and self.every_n_steps is None:  # there is none in a validation outside of a fit
            step = int(getattr(pl_module, "next_step", trainer.global_step))
            self.ask_and_log(trainer, pl_module, step, on_step=False)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, last = int(getattr(batch, "step", batch_idx)) + 1, getattr(batch, "micro", 0) + 1 == getattr(batch, "num_micro", 1)
        if self.every_n_steps is not None and last and step % self.every_n_steps == 0:
            self.ask_and_log(trainer, pl_module, step, on_step=True)

    def ask_and_log(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int, on_step: bool) -> None:
        """Ask everything, log the figures and keep them with their counts."""
        self.ask(trainer, pl_module)
        values = {f"{self.prefix}/{key}": value for key, value in self.values.items()}
        pl_module.log_dict(values, on_step=on_step, on_epoch=not on_step, batch_size=1)
        self.record(trainer, step)

    @torch.no_grad()
    def ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All benchmarks, in every mode that can run: `self.results` with counts, `self.values` of those that have one."""
        training, device = pl_module.training, pl_module.device
        pl_module.eval()
        self.results = {}
        try:
            rng = torch.random.fork_rng([device] if device.type == "cuda" else [])
            with rng, same_steps(pl_module), trainer.precision_plugin.val_step_context():
                for name in self.benchmarks:
                    self._ask(name)
        finally:
            pl_module.train(training)
        self.values = {key: float(entry["value"]) for key, entry in self.results.items() if entry["value"] is not None}

    def _ask(self, name: str) -> None:
        """One benchmark as a whole, as the command does; mode by mode where it lacks a part for one of them."""
        for benchmark in self.parts[name]:
            outputs, reason = self._outputs(name, benchmark)
            if reason and len(modes := _modes(benchmark)) > 1:
                self.parts[name] = modes
                self._ask(name)
            elif reason:
                self._leave_out(f"{name} {' '.join(getattr(benchmark, 'modes', []))}".strip(), reason)
            else:
                self.results |= from_rank_0(self._score(name, benchmark, outputs) if rank() == 0 else {})

    def _outputs(self, name: str, benchmark: Benchmark) -> tuple[list[Output], str]:
        """Everybody's outputs, on every rank; and why there are none, where any rank met a missing part."""
        batches, outputs, reason = batches_of(self.items[name], benchmark.batch_size), [], ""
        try:
            for batch in batches if self.in_pieces else batches[rank() :: world_size()]:
                seed_batch(self.system, f"{self.seed}:{name}:{batch[0].id}")
                outputs += ask_batch(name, benchmark, self.system, batch, Unkept)["outputs"]
        except NotRunError as error:
            reason = str(error)
        shares = everyones((outputs, reason))
        outputs = [output for share in shares[: 1 if self.in_pieces else None] for output in share[0]]
        return outputs, next((reason for _, reason in shares if reason), "")

    def _score(self, name: str, benchmark: Benchmark, outputs: Sequence[Output]) -> dict[str, Result]:
        items = self.items[name]
        place = {item.id: number for number, item in enumerate(items)}
        failed = [{"id": item.id, "error": item.problem} for item in items if item.problem]
        ordered = sorted([*outputs, *failed], key=lambda output: place[output["id"]])
        stored = Stored(ordered, {"num_items": len(items)})
        return score_benchmark(name, benchmark, stored, self.scoring, others=False).results

    def _leave_out(self, label: str, reason: str) -> None:
        if label not in self.not_run and rank() == 0:
            print(f"{self.prefix}: {label} is left out: {reason}", flush=True)
        self.not_run[label] = reason

    def record(self, trainer: L.Trainer, step: int) -> None:
        """Add the figures to the file."""
        if rank() == 0:
            folder = Path(trainer.default_root_dir) / "logs" if self.folder is None else Path(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            entry = {"step": step, "values": self.values, "results": self.results, "not_run": self.not_run}
            with open(folder / f"{self.prefix}.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _modes(benchmark: Benchmark) -> list[Benchmark]:
    """The benchmark once per mode, so that a mode that cannot run does not take the others with it."""
    parts = []
    for mode in getattr(benchmark, "modes", ()):
        part = copy.copy(benchmark)
        part.modes = [mode]  # type: ignore[attr-defined]  # it has modes, or it would not be here
        parts.append(part)
    return parts or [benchmark]
