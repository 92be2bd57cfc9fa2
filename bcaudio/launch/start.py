"""`bcaudio launch RECIPE --backend B --nodes N`: from a recipe and the facts of a cluster to a submitted job."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import bcaudio
from bcaudio.launch.job import Job, Launch, load_facts
from bcaudio.launch.kubernetes import Kubernetes
from bcaudio.launch.local import Local
from bcaudio.launch.ray_train import RayTrain
from bcaudio.launch.slurm import Slurm
from bcaudio.recipe.check import check_recipe
from bcaudio.recipe.errors import RecipeError
from bcaudio.recipe.load import load_recipe

KINDS = {"local": Local, "slurm": Slurm, "kubernetes": Kubernetes, "ray": RayTrain}
TRAIN = ("-m", "bcaudio", "train")
FACTS = Path(bcaudio.__file__).parent.parent / "recipes" / "cluster"


def launch(
    recipe: str | Path, overrides: Sequence[str], backend: str, nodes: int, cluster: Path | None = None, dry_run: bool = False
) -> int:
    """Submit a training stage, or print what would be submitted.

    Args:
        recipe: of a training stage; refused here, not in the queue, when it cannot run.
        overrides: `key=value` for the recipe, `cluster.key=value` for the facts of the cluster.
        backend: a key of KINDS.
        nodes: machines.
        cluster: the facts; None: `recipes/cluster/<backend>.yaml` of this installation.
        dry_run: print the files and the command; write nothing, run nothing.

    Returns:
        the exit code of the submitting command; with the backend `local` that of the training (75: preempted, run it again).

    Raises:
        RecipeError, ValueError: a recipe, fact or option that cannot work. FileNotFoundError: a program that is not installed.
    """
    prepared = prepare(Path(recipe), overrides, backend, nodes, cluster)
    if dry_run:
        print("\n".join(prepared.describe()))
        return 0
    return prepared.submit()


def prepare(recipe: Path, overrides: Sequence[str], backend: str, nodes: int, cluster: Path | None = None) -> Launch:
    """The files and the command of a job. Arguments and errors as for `launch`."""
    for_cluster = [text for text in overrides if text.removeprefix("+").startswith("cluster.")]
    for_recipe = [text for text in overrides if text not in for_cluster]
    content = load_recipe(recipe, for_recipe)
    if "module" not in content:
        raise RecipeError(f"{recipe}: has no module; bcaudio launch runs training stages, one at a time")
    check_recipe(content, recipe)
    if "out" not in content:
        raise RecipeError(f"{recipe}: out: a value is required; give out=FOLDER, on a disk that all nodes share")
    arguments = (*TRAIN, str(recipe), *for_recipe)
    # beside the stage folder, which moves aside when it was made of something else
    folder = Path(f"{content['out']}.launch").absolute()
    job = Job(str(content["name"]), arguments, nodes, folder, Path.cwd())
    path = cluster or FACTS / f"{backend}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; write one as in docs/cluster.md and give --cluster FILE")
    facts = load_facts(KINDS[backend], path, [text.replace("cluster.", "", 1) for text in for_cluster])
    if isinstance(facts, Slurm):
        script = path.parent / facts.script
        if not script.is_file():
            raise FileNotFoundError(
                f"{path}: script: {script} does not exist; copy recipes/cluster/slurm.sbatch beside this file"
            )
        return facts.launch(job, script.read_text(encoding="utf-8"))
    return facts.launch(job)
