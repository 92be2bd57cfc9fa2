"""What the text LLM still knows, and how much of it speech reaches, at every validation; an alarm when it is lost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import lightning as L

from bcaudio.callbacks.benchmarks import BenchmarkCallback
from bcaudio.distributed import rank

BOUNDS = ("min", "max", "max_drop", "max_rise", "action")
READ, HEARD = "text", ("speech_to_text", "speech_to_speech", "speech")


class IntelligenceAlarmError(RuntimeError):
    """An ability has crossed the bound that the recipe sets."""


class IntelligenceWatch(BenchmarkCallback):
    """Asks the model in training the questions of benchmarks, on the same items every time, and raises an alarm.

    Logs `probe/<key>` for every figure (such as `probe/text.perplexity`, `probe/choice.text.accuracy`,
    `probe/aqa.speech_to_text.accuracy`) and `probe/gap.<key>`, the modality gap: the figure of the text mode less that of a
    speech mode of the same benchmark, on the same items (arXiv 2502.17239, section 3.3: T->T, S->T, S->S). The first asking is
    before the first step; those figures travel in the checkpoint. See BenchmarkCallback.

    Args:
        benchmarks: name -> benchmark (QuestionAnswering, Choice, Retention, TextPerplexity).
        alarm: key (`aqa.text.accuracy`, `gap.aqa.speech_to_text.accuracy`) -> bounds: `min`, `max`, and from the figure at the
            start `max_drop`, `max_rise`; `action` is `stop` (the default) or `warn`.
        options: further arguments of BenchmarkCallback, such as `decoder` for S->S.

    Raises:
        ValueError: no benchmark, an unknown bound, or an alarm on a key that no benchmark gives.
        IntelligenceAlarmError: on every rank, when an alarm stops the run.
    """

    prefix = "probe"

    def __init__(
        self, benchmarks: Mapping[str, Any], alarm: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
    ) -> None:
        super().__init__(benchmarks, **options)
        self.alarm = {key: dict(bounds) for key, bounds in (alarm or {}).items()}
        for key, bounds in self.alarm.items():
            unknown = sorted(bounds.keys() - set(BOUNDS))
            if unknown or not bounds or bounds.get("action", "stop") not in ("stop", "warn"):
                raise ValueError(
                    f"IntelligenceWatch: alarm.{key} is {bounds}; give some of {', '.join(BOUNDS)}, action stop or warn"
                )
        self.start: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"start": self.start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start = dict(state_dict["start"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Ask for the first time, unless a checkpoint brought the figures."""
        super().on_train_start(trainer, pl_module)
        if not self.start:
            self.ask(trainer, pl_module)
            self.start = dict(self.values)
            self.record(trainer, step=0)
            self._judge()
        missing = sorted(self.alarm.keys() - self.start.keys())
        if missing:
            known = ", ".join(sorted(self.start))
            raise ValueError(f"IntelligenceWatch: alarm on {', '.join(missing)}, but the benchmarks give only {known}")

    def ask(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Everything, and the gaps."""
        super().ask(trainer, pl_module)
        self.values |= gaps(self.values)

    def ask_and_log(self, trainer: L.Trainer, pl_module: L.LightningModule, step: int, on_step: bool) -> None:
        """Everything, and the alarms."""
        super().ask_and_log(trainer, pl_module, step, on_step)
        self._judge()

    def _judge(self) -> None:
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
