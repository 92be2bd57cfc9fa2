"""The command `bcaudio`: arguments only; what it starts is imported when it is asked for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from bcaudio import __version__
from bcaudio.recipe.errors import exit_code

OVERRIDES = "key.path=value; lists by index (a.0.b=1); +a.b=1 adds a key"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        exit code: 0, 1 (something failed), 2 (the user's mistake; one line per problem), 130 (Ctrl-C).

    With BCAUDIO_TRACEBACK=1 in the environment errors come with their traceback.
    """
    args = _parse(argv)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported: cores may be shared, so who waits sleeps
    return exit_code(lambda: args.function(args))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bcaudio", description="Train, evaluate and talk to an audio language model.")
    parser.add_argument("--version", action="version", version=f"bcaudio {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    show = _command(commands, "show", _show, "print a recipe with everything resolved, and check it")
    show.add_argument("recipe", type=Path)
    _overrides(show)

    run = _command(commands, "run", _run, "run all stages of a pipeline that are not done")
    run.add_argument("pipeline", type=Path)
    run.add_argument("--only", nargs="+", action="extend", default=[], metavar="STAGE", help="just these stages")
    run.add_argument("--from", dest="start", metavar="STAGE", help="just this stage and all that depends on it")
    run.add_argument("--jobs", type=int, metavar="N", help="stages at a time (default: 2, or 1 on a single core)")
    _overrides(run, "run_dir=FOLDER or STAGE.key.path=value")

    status = _command(commands, "status", _status, "what is done, stale or cut off")
    status.add_argument("pipeline", type=Path, help="pipeline file or run folder")
    _overrides(status, "as for run")

    for name, function, text in (
        ("train", _train, "run one training stage"),
        ("evaluate", _evaluate, "run one evaluation"),
        ("report", _report, "write the report"),
        ("ablation", _ablation, "compare variants of a system over seeds"),
    ):
        command = _command(commands, name, function, text)
        command.add_argument("recipe", type=Path)
        if name == "evaluate":
            text = "folder of a run or of published weights, or openai:URL; in place of the recipe's system"
            command.add_argument("--model", metavar="SPEC", help=text)
        _overrides(command)

    scorer = _command(commands, "score", _score, "score the stored outputs of an evaluation anew; no model is needed")
    scorer.add_argument("out", type=Path, help="folder of an evaluation")
    scorer.add_argument("--normalizer", metavar="NAME", help="in place of the recipe's; writes to OUT/scores/NAME")
    scorer.add_argument("--to", type=Path, metavar="DIR", help="where the results go")

    compare = _command(commands, "compare", _compare, "compare evaluations item by item")
    compare.add_argument("folders", type=Path, nargs="+", metavar="OUT", help="folders of evaluations; the first is the baseline")
    compare.add_argument("--to", type=Path, metavar="DIR", help="write the comparison there")

    launch = _command(commands, "launch", _launch, "start a training stage on this machine or on a cluster")
    launch.add_argument("recipe", type=Path)
    launch.add_argument("--backend", choices=("local", "slurm", "kubernetes", "ray"), required=True)
    launch.add_argument("--nodes", type=int, required=True, metavar="N")
    launch.add_argument("--cluster", type=Path, metavar="FILE", help="of the cluster; default: recipes/cluster/BACKEND.yaml")
    launch.add_argument("--dry-run", action="store_true", help="print the files and the command; write and run nothing")
    _overrides(launch, f"{OVERRIDES}; cluster.key=value for the cluster")

    plan = _command(commands, "plan", _plan, "what a recipe needs: memory, time, cost, disk; no GPU is needed")
    plan.add_argument("recipe", type=Path, help="of a training stage, or a pipeline")
    plan.add_argument("--gpu", default="h100-80gb", metavar="NAME", help="kind of GPU (default: %(default)s)")
    plan.add_argument("--nodes", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    plan.add_argument("--gpus-per-node", type=int, default=8, metavar="N", help="GPUs per machine (default: %(default)s)")
    plan.add_argument("--mfu", type=float, default=0.4, metavar="X", help="share of the peak reached (default: %(default)s)")
    plan.add_argument("--price-per-gpu-hour", type=float, metavar="X", help="in any currency; without it no cost is shown")
    plan.add_argument("--clip-s", type=float, default=12.0, metavar="S", help="seconds of a sample (default: %(default)s)")
    plan.add_argument("--markdown", type=Path, metavar="FILE", help="write the plan there as well")
    _overrides(plan)

    say = _command(commands, "say", _say, "answer a spoken question")
    say.add_argument("--run", type=Path, required=True, metavar="DIR", help="run folder of a pipeline")
    say.add_argument("--audio", type=Path, required=True, metavar="WAV", help="the question")
    say.add_argument("--out", type=Path, required=True, metavar="WAV", help="where the answer goes")

    shards = _command(commands, "shards", _shards, "look at shards")
    shards.add_argument("action", choices=("ls", "verify", "stats", "show"))
    shards.add_argument("paths", nargs="+", metavar="PATH", help="shard or glob; for show the last one is the key of the sample")

    importer = _command(commands, "import", _import, "turn published weights into stage folders")
    importer.add_argument("source", type=Path, help="folder of Baichuan-Audio, Whisper or a causal LM; or a hift.pt")
    importer.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder")
    importer.add_argument("--kind", choices=("auto", "baichuan", "whisper", "llm", "hift"), default="auto")

    exporter = _command(commands, "export", _export, "write a run in a published layout")
    exporter.add_argument("run", type=Path, help="run folder with a pipeline.yaml, a stage folder, or a checkpoint of one")
    exporter.add_argument("--to", type=Path, required=True, metavar="DIR", help="new folder")
    exporter.add_argument("--format", choices=("baichuan", "huggingface", "bcaudio"), required=True)

    args, rest = parser.parse_known_args(argv)
    # argparse takes no more positional arguments after an option: `run P --jobs 2 a.b=c`
    if unknown := [text for text in rest if not (hasattr(args, "overrides") and _is_override(text))]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if hasattr(args, "overrides"):
        args.overrides += rest
        if misplaced := [text for text in args.overrides if not _is_override(text)]:
            parser.error(f"{misplaced[0]}: not an override; write key.path=value")
    if args.command == "run":  # `--only a b c.d=e` takes everything that follows
        args.overrides += [text for text in args.only if _is_override(text)]
        args.only = [text for text in args.only if not _is_override(text)]
    if args.command == "shards" and args.action == "show" and len(args.paths) < 2:
        parser.error("shards show needs PATH... and the KEY of a sample")
    return args


def _command(
    commands: argparse._SubParsersAction, name: str, function: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
    parser.set_defaults(function=function)
    return parser


def _overrides(parser: argparse.ArgumentParser, text: str = OVERRIDES) -> None:
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)


def _is_override(text: str) -> bool:
    return "=" in text and not text.startswith("-")


def _show(args: argparse.Namespace) -> None:
    from bcaudio.recipe.graph import COMMAND_OF_KEY, COMMANDS, PIPELINE_KEYS, Command, check_pipeline, load_pipeline
    from bcaudio.recipe.load import dump_recipe, load_recipe

    recipe = load_recipe(args.recipe, missing_ok=True)
    if "stages" in recipe and recipe.keys() <= PIPELINE_KEYS:
        pipeline = load_pipeline(args.recipe, args.overrides)
        print(dump_recipe(pipeline.source), end="", flush=True)
        check_pipeline(pipeline)
        return
    recipe = load_recipe(args.recipe, args.overrides, missing_ok=True)
    print(dump_recipe(recipe), end="", flush=True)
    command = next((COMMANDS[name] for key, name in COMMAND_OF_KEY.items() if key in recipe), Command(()))
    command.check(recipe, args.recipe)


def _run(args: argparse.Namespace) -> int:
    from bcaudio.recipe.graph import load_pipeline
    from bcaudio.recipe.schedule import run_pipeline

    pipeline = load_pipeline(args.pipeline, args.overrides)
    code = run_pipeline(pipeline, args.only, args.start, args.jobs)
    if (pipeline.run_dir / "results.json").exists():
        from bcaudio.evaluation.report import results_table

        print(results_table(pipeline.run_dir))
    if (page := pipeline.run_dir / "report" / "index.html").exists():
        print(f"report: {page}")
    return code


def _status(args: argparse.Namespace) -> None:
    from rich.console import Console

    from bcaudio.recipe.display import status_table
    from bcaudio.recipe.graph import load_pipeline

    Console().print(status_table(load_pipeline(args.pipeline, args.overrides)))


def _train(args: argparse.Namespace) -> int | None:
    from bcaudio.train import train

    return train(args.recipe, args.overrides)


def _launch(args: argparse.Namespace) -> int:
    from bcaudio.launch.start import launch

    return launch(args.recipe, args.overrides, args.backend, args.nodes, args.cluster, args.dry_run)


def _plan(args: argparse.Namespace) -> None:
    from bcaudio.planning.report import plan

    flags = (f"--{name.replace('_', '-')} {getattr(args, name)}" for name in ("gpu", "nodes", "gpus_per_node", "mfu", "clip_s"))
    price = [] if args.price_per_gpu_hour is None else [f"--price-per-gpu-hour {args.price_per_gpu_hour}"]
    command = " ".join([f"bcaudio plan {args.recipe}", *args.overrides, *flags, *price])
    plan(
        args.recipe,
        args.overrides,
        args.gpu,
        args.nodes,
        args.gpus_per_node,
        args.mfu,
        args.price_per_gpu_hour,
        args.clip_s,
        args.markdown,
        command,
    )


def _evaluate(args: argparse.Namespace) -> int | None:
    from bcaudio.evaluate import evaluate

    return evaluate(args.recipe, args.overrides, args.model)


def _score(args: argparse.Namespace) -> int:
    from bcaudio.evaluation.scoring import score

    return score(args.out, args.normalizer, args.to)


def _compare(args: argparse.Namespace) -> int:
    from bcaudio.evaluation.compare import compare

    return compare(args.folders, args.to)


def _report(args: argparse.Namespace) -> int | None:
    from bcaudio.evaluation.report import report

    return report(args.recipe, args.overrides)


def _ablation(args: argparse.Namespace) -> None:
    from bcaudio.evaluation.ablation import ablation

    ablation(args.recipe, args.overrides)


def _say(args: argparse.Namespace) -> int | None:
    from bcaudio.inference.say import say

    return say(args.run, args.audio, args.out)


def _shards(args: argparse.Namespace) -> int:
    from bcaudio.data import inspect

    if args.action == "show":
        return inspect.show(args.paths[:-1], args.paths[-1])
    return getattr(inspect, args.action)(args.paths)


def _import(args: argparse.Namespace) -> None:
    from bcaudio.pretrained.importing import import_pretrained

    import_pretrained(args.source, args.to, args.kind)


def _export(args: argparse.Namespace) -> None:
    if args.run.suffix == ".ckpt":
        if args.format != "bcaudio":
            raise ValueError(
                f"{args.run}: a checkpoint becomes a stage folder; use --format bcaudio, then export that folder as {args.format}"
            )
        from bcaudio.strategies.export import export_checkpoint

        export_checkpoint(args.run, args.to)
        return
    from bcaudio.pretrained.exporting import export_model

    export_model(args.run, args.to, args.format)
