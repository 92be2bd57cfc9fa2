"""What the text LLM still knows, and how much of it speech reaches, at every validation; an alarm when it is lost."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
import torch.distributed as dist

from bcaudio.callbacks.replica_check import is_sharded
from bcaudio.checkpoint import load_model
from bcaudio.distributed import is_distributed, rank, world_size
from bcaudio.evaluation.benchmark import Benchmark, Examples, NotRunError, Output, Result
from bcaudio.inference.sampling import GREEDY, SamplingOptions
from bcaudio.inference.system import System

BOUNDS = ("min", "max", "max_drop", "max_rise", "action")
READ, HEARD = "text", ("speech_to_text", "speech_to_speech", "speech")


class IntelligenceAlarmError(RuntimeError):
    """An ability has crossed the bound that the recipe sets."""


class LiveSystem(System):
    """The system around a model that is still training: the model is the module's own, not loaded from a folder.

    Args:
        module: an AudioLLMModule.
        tokenizer, flow_decoder, vocoder, auditor: stage folders; together they let it speak and hear itself.
    """

    def __init__(
        self,
        module: Any,
        tokenizer: str | None = None,
        flow_decoder: str | None = None,
        vocoder: str | None = None,
        auditor: str | None = None,
        speech_options: SamplingOptions = GREEDY,
        max_frames: int = 100,
    ) -> None:
        self.device, self.speech_options, self.max_frames = module.device, speech_options, max_frames
        self.flow_temperature, self.flow_guidance = 1.0, None
        self.text_tokenizer, self.builder, self.generator = module.text_tokenizer, module.builder, module.generator
        self.audio_llm = module.model
        self.tokenizer, self.flow_decoder, self.vocoder, self.auditor = (
            None if folder is None else load_model(folder).to(self.device)
            for folder in (tokenizer, flow_decoder, vocoder, auditor)
        )


class IntelligenceWatch(L.Callback):
    """Asks the model in training the questions of benchmarks, on the same items every time, and raises an alarm.

    Logs `probe/<key>` for every result (such as `probe/text.perplexity`, `probe/choice.text.accuracy`,
    `probe/aqa.speech_to_text.accuracy`) and `probe/gap.<key>`, the modality gap: the figure of the text mode less that of a
    speech mode of the same benchmark, on the same items (arXiv 2502.17239, section 3.3: T->T, S->T, S->S). A mode that needs a
    part the recipe does not give, as S->S without a decoder, is left out, and said so once. The first asking is before the
    first step; those figures travel in the checkpoint. Every validation's figures are kept in `probe.jsonl`.

    The items are shared out over ranks; where weights are sharded every rank asks all, since each forward pass is a collective.

    Args:
        benchmarks: name -> benchmark (`_target_` in the recipe; QuestionAnswering, Choice, Retention, TextPerplexity).
        alarm: key (`aqa.text.accuracy`, `gap.aqa.speech_to_text.accuracy`) -> bounds: `min`, `max`, and from the figure at the
            start `max_drop`, `max_rise`; `action` is `stop` (the default) or `warn`.
        decoder: stage folders `tokenizer`, `flow_decoder`, `vocoder`, `auditor` for S->S.
        folder: of probe.jsonl; None takes `logs` in the trainer's root folder.

    Raises:
        ValueError: no benchmark, an unknown bound, or an alarm on a key that no benchmark gives.
        IntelligenceAlarmError: on every rank, when an alarm stops the run.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, Any],
        alarm: Mapping[str, Mapping[str, Any]] | None = None,
        decoder: Mapping[str, str] | None = None,
        folder: str | None = None,
    ) -> None:
        if not benchmarks:
            raise ValueError("IntelligenceWatch: name at least one benchmark")
        self.alarm = {key: dict(bounds) for key, bounds in (alarm or {}).items()}
        for key, bounds in self.alarm.items():
            unknown = sorted(bounds.keys() - set(BOUNDS))
            if unknown or not bounds or bounds.get("action", "stop") not in ("stop", "warn"):
                raise ValueError(
                    f"IntelligenceWatch: alarm.{key} is {bounds}; give some of {', '.join(BOUNDS)}, action stop or warn"
                )
        self.benchmarks: dict[str, Benchmark] = dict(benchmarks)
        self.decoder, self.folder = dict(decoder or {}), folder
        self.start: dict[str, float] = {}
        self.values: dict[str, float] = {}
        self.results: dict[str, Result] = {}
        self.not_run: dict[str, str] = {}
        self.system: LiveSystem | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Load the parts, find the items, and ask for the first time unless a checkpoint brought the figures."""
        self.system = LiveSystem(pl_module, **self.decoder)
        self.items = {name: benchmark.items() for name, benchmark in self.benchmarks.items()}
        self.replicated = is_distributed() and any(is_sharded(p) for p in pl_module.parameters())
        if not self.start:
            self.ask(trainer, pl_module)
            self.start = dict(self.values)
            self._record(trainer, step=0)
            self._judge(trainer)
        missing = sorted(self.alarm.keys() - self.start.keys())
        if missing:
            known = ", ".join(sorted(self.start))
            raise ValueError(f"IntelligenceWatch: alarm on {', '.join(missing)}, but the benchmarks give only {known}")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.system is None:  # a validation outside of a fit
            return
        self.ask(trainer, pl_module)
        pl_module.log_dict({f"probe/{key}": value for key, value in self.values.items()}, on_step=False, on_epoch=True)
        self._record(trainer, step=int(getattr(pl_module, "next_step", trainer.global_step)))
        self._judge(trainer)

    @torch.no_grad()
    def ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """All benchmarks, in every mode that can run: `self.results` with counts, `self.values` with gaps."""
        training, state = pl_module.training, torch.get_rng_state()
        pl_module.eval()
        self.results = {}
        try:
            with trainer.precision_plugin.val_step_context():
                for name, benchmark in self.benchmarks.items():
                    for part in _modes(benchmark):
                        self._ask(name, part, self.items[name])
        finally:
            pl_module.train(training)
            torch.set_rng_state(state)
        self.values = {key: float(entry["value"]) for key, entry in self.results.items() if entry["value"] is not None}
        self.values |= gaps(self.values)

    def _ask(self, name: str, benchmark: Benchmark, items: Sequence[Any]) -> None:
        mine = items if self.replicated else items[rank() :: world_size()]
        examples = Examples(Path("."), Path("."), limit=0)
        outputs: list[Output] = []
        try:
            for start in range(0, len(mine), benchmark.batch_size):
                outputs += benchmark.ask(self.system, mine[start : start + benchmark.batch_size], examples)
        except NotRunError as error:
            outputs, reason = [], str(error)
            label = f"{name} {' '.join(getattr(benchmark, 'modes', []))}".strip()
            if label not in self.not_run and rank() == 0:
                print(f"probe: {label} is left out: {reason}", flush=True)
            self.not_run[label] = reason
        if is_distributed() and not self.replicated:
            everyone: list[Any] = [None] * world_size()
            dist.all_gather_object(everyone, outputs)
            outputs = [output for share in everyone for output in share]
        if outputs:  # metrics sum over ranks by themselves, so rank 0 brings all outputs and the others none
            self.results |= benchmark.score(outputs if rank() == 0 else [])

    def _record(self, trainer: L.Trainer, step: int) -> None:
        if rank() == 0:
            folder = Path(trainer.default_root_dir) / "logs" if self.folder is None else Path(self.folder)
            folder.mkdir(parents=True, exist_ok=True)
            entry = {"step": step, "values": self.values, "results": self.results, "not_run": self.not_run}
            with open(folder / "probe.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def _judge(self, trainer: L.Trainer) -> None:
        found = {key: line for key, bounds in self.alarm.items() if (line := self._crossed(key, bounds))}
        stops = [line for key, line in found.items() if self._action(key) == "stop"]
        if rank() == 0:
            for line in found.values():
                print(f"ALARM: {line}", flush=True)
        if stops:
            raise IntelligenceAlarmError(
                f"{'; '.join(stops)}. Go back to a checkpoint before that, raise the share of text in data.train or lower the "
                "learning rate; or move the bound in the recipe"
            )

    def _action(self, key: str) -> Literal["stop", "warn"]:
        return self.alarm[key].get("action", "stop")

    def _crossed(self, key: str, bounds: Mapping[str, Any]) -> str:
        """What is wrong with a figure; empty when nothing is."""
        if key not in self.values:
            return ""
        value, start = self.values[key], self.start[key]
        limits = {
            "min": ("below", bounds.get("min")),
            "max": ("above", bounds.get("max")),
            "max_drop": ("below", start - bounds["max_drop"] if "max_drop" in bounds else None),
            "max_rise": ("above", start + bounds["max_rise"] if "max_rise" in bounds else None),
        }
        crossed = [
            f"{side} its bound {limit:.4g} ({name} {bounds[name]})"
            for name, (side, limit) in limits.items()
            if limit is not None and not (value >= limit if side == "below" else value <= limit)  # NaN crosses every bound
        ]
        return f"{key} is {value:.4g} (it was {start:.4g} at the start), {' and '.join(crossed)}" if crossed else ""


def gaps(values: Mapping[str, float]) -> dict[str, float]:
    """`gap.<benchmark>.<mode>.<figure>` for every speech mode: the text mode's figure less its own.

    S->S answers are also judged by their text: `aqa.speech_to_speech.text_accuracy`, measured against the same text mode.
    """
    found = {}
    for key, value in values.items():
        parts = key.split(".")
        if len(parts) >= 3 and parts[-2] in HEARD:
            read = ".".join([*parts[:-2], READ, parts[-1].removeprefix("text_")])
            if read in values:
                found[f"gap.{key}"] = values[read] - value
    return found


def _modes(benchmark: Benchmark) -> list[Benchmark]:
    """The benchmark once per mode, so that a mode that cannot run does not take the others with it."""
    parts = []
    for mode in getattr(benchmark, "modes", ()):
        part = copy.copy(benchmark)
        part.modes = [mode]  # type: ignore[attr-defined]
        parts.append(part)
    return parts or [benchmark]
