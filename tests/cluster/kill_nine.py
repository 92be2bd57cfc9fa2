"""python tests/cluster/kill_nine.py RUN OUT: micro stage 2 under DDP, killed at random and resumed with 1 and 2 ranks by turns.

RUN is the folder of a finished run of recipes/micro/pipeline.yaml (its codes, texts, text tokenizer and stage 1 are taken). Two
ranks train stage 2 once without disturbance. Then the same again, kill -9 to all ranks or to one of them, 20 times, each time
resumed by the same command with the other number of ranks. One rank takes two micro-batches where two ranks take one each. At the
end the ledger of samples, the losses of all steps, the weights and what the evaluation says must be those of the undisturbed run.

An undisturbed run that is finished in OUT is not made again. About 20 minutes on two cores. Not in CI.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bcaudio.callbacks.sample_ledger import read_ledger
from bcaudio.checkpoint import load_state, tensor_sha256
from bcaudio.recipe.load import dump_recipe, load_recipe
from bcaudio.recipe.record import read_json

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
KILLS, SEED = 20, 0


def write_recipe(run: Path, base: Path, steps: int) -> Path:
    """Micro stage 2 in packed rows, so that the number of ranks does not change what a step computes, and with a ledger."""
    takes = {"codes": "codes", "text": "prepare", "text_tokenizer": "text_tokenizer", "llm": "stage1"}
    overrides = [
        *(f"takes.{name}={run / folder}" for name, folder in takes.items()),
        f"max_steps={steps}", f"trainer.val_check_interval={steps // 4}", "checkpoint_every=50", f"out={base}",
        "data.batch_size=null", "data.window=1", "+data.rows=6", "data.collate.row_tokens=256", "+data.accumulate=1",
        f"+data.lengths={base / 'lengths'}",
        "+trainer.strategy=ddp", "+trainer.log_every_n_steps=1",
    ]  # fmt: skip
    recipe = load_recipe(RECIPES / "micro" / "stage2.yaml", overrides)
    recipe["callbacks"].append({"_target_": "bcaudio.callbacks.SampleLedger"})
    (base / "stage2.yaml").write_text(dump_recipe(recipe))
    return base / "stage2.yaml"


def start(recipe: Path, out: Path, ranks: int) -> subprocess.Popen:
    """The run in a process group of its own; what it prints goes to OUT.log. One rank takes two micro-batches a step."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m", "bcaudio", "train"]
    command = [sys.executable, *torchrun, str(recipe), f"out={out}", f"data.accumulate={2 // ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)


def steps_done(out: Path) -> int:
    """Steps that the run has written down."""
    return max(read_ledger(out), default=-1) + 1


def kill(process: subprocess.Popen, everyone: bool) -> str:
    """kill -9 to torchrun and all ranks, or to one rank (torchrun then ends the others); says which."""
    everybody = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in everybody if child.ppid() == process.pid]
    if everyone or not ranks:
        process.kill()
        for child in everybody:  # ranks lead sessions of their own, so a signal to torchrun's group would not reach them
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(everybody)
        process.wait()
        return "all"
    random.choice(ranks).kill()
    process.wait(timeout=120)
    return "one rank"


def losses(out: Path) -> dict[int, str]:
    """Step -> training loss, as written."""
    with open(out / "logs" / "metrics.csv", newline="") as stream:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(stream) if row.get("train/loss")}


def evaluated(run: Path, stage: Path, out: Path) -> dict[str, Any]:
    """Value of every result of recipes/ablations/evaluate.yaml: text and speech, read, heard and spoken."""
    takes = {"codes": "codes", "data": "prepare", "text_tokenizer": "text_tokenizer", "tokenizer": "tokenizer", "flow": "flow",
             "vocoder": "vocoder", "auditor": "auditor"}  # fmt: skip
    overrides = [*(f"takes.{name}={run / folder}" for name, folder in takes.items()), f"takes.audio_llm={stage}", f"out={out}"]
    subprocess.run(
        [sys.executable, "-m", "bcaudio", "evaluate", str(RECIPES / "ablations" / "evaluate.yaml"), *overrides], check=True
    )
    return {key: row["value"] for key, row in json.loads((out / "results.json").read_text())["results"].items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=2600)
    args = parser.parse_args()
    random.seed(SEED)
    run, base = args.run.resolve(), args.out.resolve()
    base.mkdir(parents=True, exist_ok=True)
    whole, killed, recipe = base / "whole", base / "killed", write_recipe(run, base, args.steps)

    if read_json(whole / "stage.json").get("status") != "done":
        began = time.monotonic()
        if code := start(recipe, whole, 2).wait():
            print(f"undisturbed: exit code {code}; see {whole.with_suffix('.log')}")
            return 1
        print(f"undisturbed: trained in {time.monotonic() - began:.0f} s", flush=True)
    print(f"undisturbed: 2 ranks, {steps_done(whole)} steps", flush=True)

    for number in range(KILLS):
        ranks = 2 - number % 2
        before, process = steps_done(killed), start(recipe, killed, ranks)
        goal = before + random.randint(1, 2 * args.steps // (KILLS + 5) - before % 2)
        while process.poll() is None and steps_done(killed) < min(goal, args.steps - 30):
            time.sleep(random.uniform(0.05, 0.3))
        if process.poll() is not None:
            print(f"kill {number + 1}: the run had ended by itself, exit code {process.returncode}", flush=True)
            return 1
        time.sleep(random.uniform(0, 0.5))
        who = kill(process, everyone=random.random() < 0.5)
        print(f"kill {number + 1}: {ranks} rank{'s'[: ranks - 1]}, {who}, {steps_done(killed)} steps written down", flush=True)
    code = start(recipe, killed, 1 + KILLS % 2).wait()
    print(f"resumed for the last time: exit code {code}", flush=True)
    if code:
        return 1

    ledgers = read_ledger(whole), read_ledger(killed)
    states = load_state(whole), load_state(killed)
    curves = losses(whole), losses(killed)
    results = [evaluated(run, stage, base / f"evaluate-{stage.name}") for stage in (whole, killed)]
    apart = max(abs(float(curves[0][step]) - float(curves[1][step])) for step in curves[0])
    digests = [tensor_sha256(state) for state in states]
    num_samples = sum(map(len, ledgers[0].values()))
    holds = {
        f"ledger of {len(ledgers[0])} steps, {num_samples} samples": ledgers[0] == ledgers[1] and num_samples > 0,
        f"losses of {len(curves[0])} steps (largest difference {apart:g})": curves[0] == curves[1],
        f"weights, sha256 {digests[0][:12]} and {digests[1][:12]}": digests[0] == digests[1],
        f"{len(results[0])} results of the evaluation": results[0] == results[1],
    }
    for what, same in holds.items():
        print(f"{'equal ' if same else 'UNLIKE'}  {what}")
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
