"""The planner's error table: `python tests/planning/accuracy.py --markdown docs/plans/accuracy.md` (a minute)."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))
from measure import PERSISTENT, VARIANTS, WORLD_SIZE, measure_activations, measure_states, small_batch, tiny_model

from bcaudio.data.batch import PackedBatch
from bcaudio.planning.memory import Sharding, StateBytes, sizes_of, state_bytes
from bcaudio.planning.steps import audio_llm_step

ROWS, ROW_TOKENS = 4, 192


def states() -> list[tuple[str, int, bool, StateBytes, dict[str, int]]]:
    """(variant, ZeRO stage, bf16, predicted, measured bytes by kind) of every combination."""
    cases = [(variant, stage, bf16) for variant in VARIANTS for stage in range(4) for bf16 in (False, True)]
    with tempfile.TemporaryDirectory() as folder:
        measured = measure_states(cases, Path(folder))
    found = []
    for variant, stage, bf16 in cases:
        sharding = Sharding(stage, WORLD_SIZE, bf16, persistent_elements=PERSISTENT)
        predicted = state_bytes(sizes_of([tiny_model(variant, "meta")]), sharding)
        found.append((variant, stage, bf16, predicted, measured[variant, stage, bf16]))
    return found


def activations() -> list[tuple[str, bool, bool, int, int]]:
    """(variant, autocast to bf16, checkpointing, predicted, measured bytes) of every combination."""
    found = []
    for variant in VARIANTS:
        for bf16 in (False, True):
            for checkpointing in (False, True):
                model = tiny_model(variant, "meta")
                batch = PackedBatch(**small_batch(model, ROWS, ROW_TOKENS), items=[])
                predicted = audio_llm_step(model, batch, bf16, deepspeed=False, checkpointing=checkpointing).saved_bytes
                measured = measure_activations(variant, ROWS, ROW_TOKENS, bf16, checkpointing)
                found.append((variant, bf16, checkpointing, predicted, measured))
    return found


def page() -> str:
    """The table as Markdown."""
    lines = ["`python tests/planning/accuracy.py --markdown docs/plans/accuracy.md`", "", "# The planner's error", ""]
    lines += [
        "The audio LLM of `recipes/micro`, with what learns in stage 1, in stage 2, and under LoRA (peft, attention, rank 8).",
        "Predicted figures come from the model on the meta device, measured ones from what is really held on CPUs.",
        "GPUs were not measured: there the kernels of attention, the allocator's gaps and the buffers of NCCL differ.",
        "",
        "## State of one rank: weights, gradients, optimizer",
        "",
        f"{WORLD_SIZE} gloo processes; what DDP and DeepSpeed hold after the second backward pass (storages of their tensors,",
        "buckets left out), on the rank that holds most. The bound is 2 %.",
        "",
        "| trained | ZeRO | precision | predicted | measured | error |",
        "|---|---|---|---:|---:|---:|",
    ]
    for variant, stage, bf16, predicted, measured in states():
        total = sum(measured.values())
        precision, name = "bf16" if bf16 else "fp32", stage or "0 (DDP)"
        lines.append(
            f"| {variant} | {name} | {precision} | {predicted.total:,} | {total:,} | {predicted.total / total - 1:+.3%} |"
        )
    lines += [
        "",
        "## Activations",
        "",
        f"{ROWS} packed rows of {ROW_TOKENS} tokens, forward pass and losses: storages that autograd saves, without parameters.",
        "The bound is 20 %. Precision bf16 is autocast over fp32 weights.",
        "",
        "| trained | precision | checkpointing | predicted | measured | error |",
        "|---|---|---|---:|---:|---:|",
    ]
    for variant, bf16, checkpointing, predicted, measured in activations():
        row = [variant, "bf16" if bf16 else "fp32", "on" if checkpointing else "off", f"{predicted:,}", f"{measured:,}"]
        lines.append("| " + " | ".join([*row, f"{predicted / measured - 1:+.2%}"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, required=True)
    target = parser.parse_args().markdown
    target.write_text(page(), encoding="utf-8")
    print(target.read_text(encoding="utf-8"))
