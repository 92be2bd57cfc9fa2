"""From a recipe and the facts of a cluster to files and commands: golden files, quoting, refusals, submission."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bcaudio.cli import main
from bcaudio.launch.job import Job, Launch, load_facts
from bcaudio.launch.kubernetes import Kubernetes
from bcaudio.launch.local import Local
from bcaudio.launch.ray_train import RayTrain
from bcaudio.launch.slurm import Slurm, fill
from bcaudio.launch.start import FACTS, launch, prepare
from bcaudio.recipe.errors import RecipeError

GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "note=a b'c\"d$(touch pwned)`touch pwned`;touch pwned&|\\ #*"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe that passes its check, in the current folder; nothing of it is ever run here."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "stage.yaml"
    stage = {
        "name": "tiny",
        "seed": 0,
        "out": "runs/tiny",
        "takes": {"note": "x"},
        "module": {"_target_": "bcaudio.training.stage.StageModule"},
    }
    path.write_text(yaml.safe_dump(stage))
    return path


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """fake(name, code): a program that writes down its arguments and returns the code."""

    def make(name: str, code: int = 0) -> Path:
        folder, calls = tmp_path / "bin", tmp_path / f"{name}.calls"
        folder.mkdir(exist_ok=True)
        program = folder / name
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {calls}\nexit {code}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        return calls

    return make


def job(**changes: object) -> Job:
    values = {
        "name": "stage1",
        "arguments": ("-m", "bcaudio", "train", "recipes/my stage.yaml", "out=/data/runs/stage1", "takes.codes=/data/it's"),
        "nodes": 2,
        "folder": Path("/data/runs/stage1.launch"),
        "directory": Path("/home/me/bc audio"),
    }
    return Job(**{**values, **changes})  # type: ignore[arg-type]


def slurm_launch(**changes: object) -> Launch:
    site = Slurm(
        processes_per_node=8, time="1-12:00:00", cpus_per_process=4, partition="gpu", account="speech", exclude="node[3-4],node9",
        container_image="registry#bcaudio:0.1", container_mounts="/data:/data", environment={"NCCL_DEBUG": "WARN; rm -rf /"},
        setup=("module load cuda/12.8",), python="/opt/venv/bin/python",
    )  # fmt: skip
    return site.launch(job(**changes), (FACTS / "slurm.sbatch").read_text())


def kubernetes_launch(**changes: object) -> Launch:
    cluster = Kubernetes(
        image="registry.example.org/speech/bcaudio:0.1", processes_per_node=8, namespace="speech", cpu="64", memory="800Gi",
        shared_memory="64Gi", volumes={"speech-data": "/data"}, node_selector={"gpu": "h100"}, environment={"NCCL_DEBUG": "WARN"},
        directory="/opt/bcaudio",
    )  # fmt: skip
    return cluster.launch(job(**{"name": "audio_llm.stage1", **changes}))


def ray_launch(**changes: object) -> Launch:
    return RayTrain(processes_per_node=8, cpus_per_process=4, python="/opt/venv/bin/python").launch(job(**changes))


@pytest.mark.parametrize(
    ("name", "made"),
    [("stage1.sbatch", slurm_launch), ("audio_llm.stage1.pytorchjob.yaml", kubernetes_launch), ("stage1.ray.json", ray_launch)],
)
def test_files_are_as_the_golden_ones(name: str, made: Callable[[], Launch]) -> None:
    """After a change that is meant: BCAUDIO_WRITE_GOLDEN=1 pytest tests/launch, then read the difference."""
    launch = made()
    (path, text), *others = launch.files.items()
    assert (str(path), others) == (f"/data/runs/stage1.launch/{name}", [])
    assert str(path) in launch.command
    if os.environ.get("BCAUDIO_WRITE_GOLDEN"):
        (GOLDEN / name).write_text(text)
    assert text == (GOLDEN / name).read_text()


def test_the_batch_script_is_bash_and_no_place_is_left_open() -> None:
    (text,) = slurm_launch().files.values()
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    assert "{{" not in text
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH ")]
    assert len(directives) == 13
    assert "#SBATCH --gpus-per-task=8" in directives
    assert "#SBATCH --cpus-per-task=32" in directives
    assert max(text.splitlines().index(line) for line in directives) < text.splitlines().index("set -u")


def test_nothing_in_a_path_or_an_override_reaches_the_shell(tmp_path: Path, fake: Callable[[str, int], Path]) -> None:
    arguments = ("-m", "bcaudio", "train", "a b/$(touch pwned).yaml", HOSTILE)
    site = Slurm(processes_per_node=1, time="10", gpus=False, environment={"SAID": HOSTILE}, python="python")
    folder = tmp_path / "$(touch pwned) dir"
    folder.mkdir()
    launch = site.launch(job(arguments=arguments, directory=folder), (FACTS / "slurm.sbatch").read_text())
    (text,) = launch.files.values()
    calls = fake("srun", 0)
    fake("scontrol", 0)
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    subprocess.run(["bash", "-c", text], env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert calls.read_text().splitlines()[-len(arguments) :] == list(arguments)
    assert list(tmp_path.rglob("pwned*")) == []


@pytest.mark.parametrize(
    ("code", "sent", "state", "queued"),
    [
        (75, "USR1", "RUNNING", True),
        (75, "USR1", "COMPLETING", False),
        (75, "TERM", "RUNNING", False),
        (75, "WINCH", "RUNNING", False),
        (1, "USR1", "RUNNING", False),
        (0, "USR1", "RUNNING", False),
    ],
)
def test_only_a_job_whose_time_is_up_is_queued_again(
    tmp_path: Path, fake: Callable[[str, int], Path], code: int, sent: str, state: str, queued: bool
) -> None:
    """srun is here a program that signals the batch script, waits until that signals back, and ends with a code."""
    (text,) = Slurm(1, "10", gpus=False).launch(job(directory=tmp_path), (FACTS / "slurm.sbatch").read_text()).files.values()
    calls = fake("scontrol", 0)
    wait = "" if sent == "WINCH" else "while :; do sleep 0.05; done\n"
    fake("srun", 0)
    (tmp_path / "bin" / "srun").write_text(
        f"#!/bin/bash\ntrap 'exit {code}' USR1\nsleep 0.2\nkill -{sent} $PPID\n{wait}exit {code}\n"
    )
    fake("squeue", 0)
    (tmp_path / "bin" / "squeue").write_text(f"#!/bin/sh\necho {state}\n")
    environment = {**os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("requeue\n7\n" in calls.read_text()) == queued


def test_a_command_of_the_container_is_not_expanded_by_kubernetes() -> None:
    (text,) = kubernetes_launch(arguments=("-m", "bcaudio", "train", "x.yaml", "a=$(RANK)")).files.values()
    (container,) = yaml.safe_load(text)["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["command"][-1] == "a=$$(RANK)"


def test_dry_run_prints_files_and_command_and_runs_nothing(
    recipe: Path, fake: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake("sbatch", 0)
    assert main(["launch", "stage.yaml", "--backend", "slurm", "--nodes", "3", "--dry-run", f"takes.{HOSTILE}"]) == 0
    printed = capsys.readouterr().out
    path = recipe.parent / "runs" / "tiny.launch" / "tiny.sbatch"
    assert printed.startswith(f"# {path}\n#!/bin/bash\n#SBATCH --job-name=tiny\n#SBATCH --nodes=3\n")
    assert printed.endswith(f"\nsbatch {path}\n")
    assert not calls.exists()
    assert not (recipe.parent / "runs").exists()


@pytest.mark.parametrize(("backend", "program"), [("slurm", "sbatch"), ("kubernetes", "kubectl")])
def test_what_was_printed_is_what_is_submitted(
    recipe: Path, fake: Callable[[str, int], Path], capsys: pytest.CaptureFixture[str], backend: str, program: str
) -> None:
    calls = fake(program, 3)
    command = ["launch", "stage.yaml", "--backend", backend, "--nodes", "2"]
    command += ["cluster.image=registry/x:1"] if backend == "kubernetes" else []
    assert main([*command, "--dry-run"]) == 0
    header, *text, empty, line = capsys.readouterr().out.splitlines()
    assert main(command) == 3
    assert Path(header.removeprefix("# ")).read_text().splitlines() == text
    assert (empty, shlex.split(line)) == ("", [program, *calls.read_text().splitlines()])


def test_arguments_hold_the_recipe_and_its_overrides_but_not_the_cluster(recipe: Path) -> None:
    overrides = ["seed=4", "cluster.processes_per_node=3", "+trainer={precision: bf16-mixed}"]
    command = prepare(Path("stage.yaml"), overrides, "local", 1).command
    train = ("-m", "bcaudio", "train", "stage.yaml", "seed=4", "+trainer={precision: bf16-mixed}")
    assert command == (sys.executable, "-m", "bcaudio.launch.agent", "--standalone", "--nproc-per-node", "3", *train)


def test_a_site_keeps_its_own_facts_and_its_own_script(recipe: Path) -> None:
    site = recipe.parent / "site"
    site.mkdir()
    (site / "ours.sbatch").write_text("#!/bin/bash\n# {{NAME}} on {{NODES}}\n{{OPTIONS}}\n{{SETUP}}\nend\n")
    (site / "ours.yaml").write_text("{script: ours.sbatch, processes_per_node: 4, time: '60', gpus: false}")
    (text,) = prepare(recipe, [], "slurm", 2, site / "ours.yaml").files.values()
    assert text == "#!/bin/bash\n# tiny on 2\nend\n"
    (site / "ours.sbatch").write_text("{{NAMES}}")
    with pytest.raises(ValueError, match=r"ours.sbatch: no value for \{\{NAMES\}\}; there are NAME"):
        prepare(recipe, [], "slurm", 2, site / "ours.yaml")


def test_values_are_not_searched_for_places() -> None:
    assert fill("{{A}} {{B}}", {"A": "{{B}}", "B": "x"}, "t") == "{{B}} x"


@pytest.mark.parametrize(
    ("backend", "nodes", "override", "message"),
    [
        ("slurm", 0, "seed=1", "--nodes is 0; a job needs at least 1"),
        ("local", 2, "seed=1", "--nodes is 2, but --backend local is this machine alone; use slurm, kubernetes or ray"),
        ("slurm", 1, "cluster.partition=a b", "partition: 'a b' is not allowed here; use names of"),
        ("slurm", 1, "cluster.partition=$(id)", "partition: .* is not allowed"),
        ("slurm", 1, "cluster.exclude=n1;id", "exclude: 'n1;id' is not allowed"),
        ("slurm", 1, "cluster.time=soon", "time: 'soon' is not allowed here; use minutes"),
        ("slurm", 1, "cluster.time=30", r"time: expected str \(in quotes\), got 30"),
        ("slurm", 1, "cluster.partitoin=x", "partitoin: unknown key; did you mean 'partition'"),
        ("slurm", 1, "cluster.tasks_per_node=3", "3 tasks cannot share 8 processes_per_node evenly"),
        ("slurm", 1, "cluster.processes_per_node=0", "processes_per_node: 0 is too small; it must be at least 1"),
        ("slurm", 1, "cluster.port=80", "port: 80 is not allowed"),
        ("slurm", 1, "+cluster.environment.A;B=1", "environment: expected a mapping from text to text"),
        ("slurm", 1, '+cluster.environment.A;B="1"', "environment: 'A;B' is not allowed"),
        ("slurm", 1, 'out="a\\nb"', r"line breaks and control characters"),
        ("slurm", 1, "name=a b", "name: 'a b' is not allowed"),
        ("slurm", 1, "out=a b", "out: .*a b.launch' is not allowed"),
        ("kubernetes", 1, "seed=1", "image: a value is required"),
        ("kubernetes", 1, "cluster.image=a b", "image: 'a b' is not allowed"),
        ("ray", 1, "cluster.placement=ANYWHERE", "placement: 'ANYWHERE' is not allowed here; use one of STRICT_SPREAD"),
        ("local", 1, "sede=1", "sede: unknown key; did you mean 'seed'"),
        ("local", 1, "+module.dropuot=1", "module.dropuot: unknown key"),
        ("local", 1, "out=null", "out: a value is required"),
    ],
)
def test_mistakes_are_refused_in_one_line(recipe: Path, backend: str, nodes: int, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        prepare(recipe, [override], backend, nodes)
    assert "\n" not in str(caught.value)


def test_what_is_no_training_stage_is_refused() -> None:
    with pytest.raises(RecipeError, match="has no module; bcaudio launch runs training stages, one at a time"):
        prepare(FACTS.parent / "micro" / "pipeline.yaml", [], "local", 1)


def test_a_program_that_is_missing_is_named_with_the_remedy(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FileNotFoundError, match="sbatch: no such program here; run this where SLURM's commands are"):
        launch(recipe, [], "slurm", 1)
    with pytest.raises(FileNotFoundError, match="kubectl: no such program here; install kubectl"):
        launch(recipe, ["cluster.image=x"], "kubernetes", 1)
    assert not (recipe.parent / "runs").exists()
    missing = Launch({}, (sys.executable,), "pip install 'ray[train]'", modules=("no_such_module",))
    with pytest.raises(FileNotFoundError, match=r"no_such_module: no such Python module here; pip install 'ray\[train\]'"):
        missing.submit()


def test_facts_of_every_backend_load_as_they_stand() -> None:
    kinds = {"local": Local, "slurm": Slurm, "kubernetes": Kubernetes, "ray": RayTrain}
    found = {path.stem: path for path in FACTS.glob("*.yaml")}
    assert found.keys() == kinds.keys()
    for name, path in found.items():
        load_facts(kinds[name], path, ["image=registry/bcaudio:0.1"] if name == "kubernetes" else [])


def test_the_manifest_fits_the_published_schema_of_the_training_operator() -> None:
    """Every key, type and required field against the models that Kubeflow generates from the operator's API."""
    models = pytest.importorskip("kubeflow.training.models")
    manifest = yaml.safe_load((GOLDEN / "audio_llm.stage1.pytorchjob.yaml").read_text())
    checked: list[str] = []

    def check(value: object, kind: str, where: str) -> None:
        if kind.startswith("dict("):
            assert isinstance(value, dict), where
            for key, entry in value.items():
                check(entry, kind[len("dict(str, ") : -1], f"{where}.{key}")
        elif kind.startswith("list["):
            assert isinstance(value, list), where
            for i, entry in enumerate(value):
                check(entry, kind[len("list[") : -1], f"{where}.{i}")
        elif kind in ("str", "int", "bool", "float", "object"):
            assert kind == "object" or type(value).__name__ == kind, f"{where}: {value!r} is no {kind}"
            checked.append(where)
        else:
            model = getattr(models, kind)
            names = {outside: inside for inside, outside in model.attribute_map.items()}
            assert isinstance(value, dict), where
            assert value.keys() <= names.keys(), f"{where}: unknown {value.keys() - names.keys()}"
            model(**{names[key]: entry for key, entry in value.items()})  # raises where a required field is missing
            for key, entry in value.items():
                check(entry, model.openapi_types[names[key]], f"{where}.{key}")

    check(manifest, "KubeflowOrgV1PyTorchJob", "job")
    assert len(checked) >= 30
    assert (manifest["apiVersion"], manifest["kind"]) == ("kubeflow.org/v1", "PyTorchJob")


def test_ray_gets_the_same_job(tmp_path: Path) -> None:
    (text,) = ray_launch().files.values()
    content = json.loads(text)
    assert content["arguments"] == list(job().arguments)
    assert content["storage"] == "/data/runs/stage1.launch/ray"
