"""What a recipe trains, built without memory, and its training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bcaudio.models.audio_llm import AudioLLM
from bcaudio.models.text_llm import causal_lm
from bcaudio.nn.residual_vq import ResidualVQ
from bcaudio.planning.steps import audio_llm_step, flow_step, tokenizer_step, vocoder_step
from bcaudio.planning.trace import Trace
from bcaudio.planning.workload import Workload, clip_workload_of, need, workload_of
from bcaudio.recipe.build import build
from bcaudio.recipe.load import load_recipe
from bcaudio.training.freezing import freeze_all_but

# Qwen2.5-1.5B, the size of the text LLM that reads the tokenizer's features in the paper (section 3.1); config.json of the model
TEXT_LLM = {
    "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


@dataclass
class Subject:
    """A stage to plan.

    Args:
        kind: class of its training module.
        model: what the stage trains and exports, on the meta device, with its frozen parameters marked.
        beside: name -> module that lies on the device as well: it learns with the model (an adapter, discriminators) or is only
            read (a text LLM, a tokenizer).
        notes: what was assumed.
    """

    kind: str
    model: nn.Module
    beside: dict[str, nn.Module] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def modules(self) -> list[nn.Module]:
        """All that lies on the device."""
        return [self.model, *self.beside.values()]

    @property
    def can_checkpoint(self) -> bool:
        """Whether the step can run layers again in place of keeping what they made."""
        return isinstance(self.model, AudioLLM)

    def workload(self, recipe: Mapping[str, Any], world_size: int, clip_s: float) -> Workload:
        """The step of the recipe; see `workload_of` and `clip_workload_of`."""
        if isinstance(self.model, AudioLLM):
            return workload_of(recipe, self.model.audio_pad_id, world_size, clip_s)
        return clip_workload_of(recipe, world_size, clip_s)

    def trace(self, work: Workload, rows: int, bf16: bool, deepspeed: bool, checkpointing: bool) -> Trace:
        """A step of one rank with so many rows (or clips)."""
        if isinstance(self.model, AudioLLM):
            return audio_llm_step(self.model, work.batch(rows), bf16, deepspeed, checkpointing)
        step = {"TokenizerModule": tokenizer_step, "FlowDecoderModule": flow_step, "VocoderModule": vocoder_step}[self.kind]
        return step(self.model, self.beside, rows, work.clip_s, bf16)


KINDS = ("AudioLLMModule", "TokenizerModule", "FlowDecoderModule", "VocoderModule")


def subject_of(recipe: Mapping[str, Any], path: Path) -> Subject:
    """Build the model of a stage's recipe on the meta device; folders in `takes` may be open.

    Raises:
        ValueError: the recipe trains nothing that is known here, or lacks its model or module.
    """
    kind = str(need(need(recipe, "module"), "_target_", "module.")).rpartition(".")[2]
    if kind not in KINDS:
        raise ValueError(f"{path}: module._target_: no plan for {kind}; known: {', '.join(KINDS)}")
    with torch.device("meta"):
        subject = Subject(kind, build(need(recipe, "model"), "model"))
        if recipe.get("lora"):
            build(recipe["lora"], "lora").apply(subject.model, recipe.get("trainable"))
        else:
            freeze_all_but(subject.model, recipe.get("trainable"))
        if kind == "TokenizerModule":
            _add_text_llm(subject, recipe, path)
        elif kind == "FlowDecoderModule":
            subject.beside["tokenizer"] = build(_neighbour(path, "tokenizer.yaml")["model"], "model").requires_grad_(False)
            subject.notes.append("the frozen tokenizer is that of tokenizer.yaml beside the recipe")
        elif kind == "VocoderModule" and "discriminators" in recipe["module"]:
            subject.beside["discriminators"] = build(recipe["module"]["discriminators"], "module.discriminators")
    return subject


def _add_text_llm(subject: Subject, recipe: Mapping[str, Any], path: Path) -> None:
    """The frozen text LLM that reads the tokenizer's features, and the adapter before it."""
    beside = path.parent / "text_llm.yaml"
    if beside.is_file():
        llm = build(load_recipe(beside, missing_ok=True)["model"], "model")
        subject.notes.append("the frozen text LLM is that of text_llm.yaml beside the recipe")
    else:
        llm = AudioLLM(causal_lm(TEXT_LLM), (), audio_pad_id=1)
        subject.notes.append("the frozen text LLM in takes.text_llm is taken to be of the size of Qwen2.5-1.5B")
    quantizer = next(module for module in subject.model.modules() if isinstance(module, ResidualVQ))
    subject.beside["text LLM"] = llm.requires_grad_(False)
    subject.beside["adapter"] = nn.Linear(quantizer.dim, llm.dim)


def _neighbour(path: Path, name: str) -> dict[str, Any]:
    file = path.parent / name
    if not file.is_file():
        raise FileNotFoundError(f"{path}: a plan of this stage needs {file}, whose model lies frozen on the device")
    return load_recipe(file, missing_ok=True)
