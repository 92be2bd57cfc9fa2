"""A batch job for SLURM that saves and queues again when its time is up or it is preempted."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from bcaudio.launch.job import NAME, PATH, Job, Launch, at_least, matches


@dataclass(frozen=True)
class Slurm:
    """A SLURM site.

    Args:
        processes_per_node: ranks of a node, one per GPU where there are any.
        tasks_per_node: agents that share out the ranks of a node.
        gpus: ask for one GPU per rank.
        cpus_per_process: cores per rank.
        time: limit of one run, as sbatch reads it; the stage goes on in the next run.
        notice_s: how long before that limit the job is told to save.
        port: the ranks meet at the first node, at this port plus the job's number modulo 1000.
        partition, account, qos, constraint: empty asks for none.
        exclude: nodes not to use, as SLURM writes lists of nodes.
        container_image, container_mounts: for the plugin pyxis; empty is no container.
        environment: variables for the ranks.
        setup: lines of shell that run first on the first node (`module load ...`); the site's own, taken as they are.
        python: interpreter on the nodes; empty: the one that runs now, which the nodes must see, too.
        script: the template, beside the file with these facts.
    """

    processes_per_node: int
    time: str
    tasks_per_node: int = 1
    gpus: bool = True
    cpus_per_process: int = 1
    notice_s: int = 120
    port: int = 29500
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    exclude: str = ""
    container_image: str = ""
    container_mounts: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    python: str = ""
    script: str = "slurm.sbatch"

    def __post_init__(self) -> None:
        for key in ("processes_per_node", "tasks_per_node", "cpus_per_process", "notice_s"):
            at_least(key, getattr(self, key), 1)
        if self.processes_per_node % self.tasks_per_node:
            raise ValueError(
                f"tasks_per_node: {self.tasks_per_node} tasks cannot share {self.processes_per_node} processes_per_node evenly"
            )
        if not 1024 <= self.port <= 64535:
            raise ValueError(f"port: {self.port} is not allowed; use 1024 to 64535, since up to 999 is added")
        matches("time", self.time, r"\d+|(\d+-)?\d+(:\d\d){1,2}|\d+-\d+", "minutes, [D-]HH:MM:SS or D-HH")
        for key in ("partition", "account", "qos"):
            matches(key, getattr(self, key), rf"({NAME}(,{NAME})*)?", "names of letters, digits, _, . and -, joined by commas")
        matches("constraint", self.constraint, r"[A-Za-z0-9_.&|*()\[\]-]*", "letters, digits and _ . & | * ( ) [ ] -")
        matches("exclude", self.exclude, r"([A-Za-z0-9][A-Za-z0-9_.,\[\]-]*)?", "names of nodes: letters, digits and _ . , [ ] -")
        for name in self.environment:
            matches("environment", name, r"[A-Za-z_][A-Za-z0-9_]*", "letters, digits and _")

    def launch(self, job: Job, template: str) -> Launch:
        """The batch script and `sbatch` on it.

        Args:
            template: text with `{{NAME}}` where values go.

        Raises:
            ValueError: the template asks for a value that there is none of; a folder that sbatch cannot write in a directive.
        """
        matches("out", str(job.folder), PATH, "letters, digits and _ . / @ + = , - for the folder of a SLURM job")
        per_task = self.processes_per_node // self.tasks_per_node
        options = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "exclude": self.exclude,
            "gpus-per-task": str(per_task) if self.gpus else "",
        }
        srun = {
            "kill-on-bad-exit": "1",
            "cpus-per-task": str(self.cpus_per_process * per_task),  # which srun does not take over from sbatch
            "container-image": self.container_image,
            "container-mounts": self.container_mounts,
        }
        values = {
            "NAME": job.name,
            "NODES": str(job.nodes),
            "TASKS_PER_NODE": str(self.tasks_per_node),
            "CPUS_PER_TASK": str(self.cpus_per_process * per_task),
            "TIME": self.time,
            "NOTICE_S": str(self.notice_s),
            "FOLDER": str(job.folder),
            "OPTIONS": "\n".join(f"#SBATCH --{name}={value}" for name, value in options.items() if value),
            "DIRECTORY": shlex.quote(str(job.directory)),
            "SETUP": "\n".join((*self.setup, *(f"export {name}={shlex.quote(v)}" for name, v in self.environment.items()))),
            "SRUN_OPTIONS": " ".join(shlex.quote(f"--{name}={value}") for name, value in srun.items() if value),
            "AGENTS": str(job.nodes * self.tasks_per_node),
            "PROCESSES": str(per_task),
            "PORT": str(self.port),
            "PYTHON": shlex.quote(self.python or sys.executable),
            "ARGUMENTS": shlex.join(job.arguments),
        }
        path = job.folder / f"{job.name}.sbatch"
        remedy = "run this where SLURM's commands are (a login node), or install slurm-client; --dry-run needs neither"
        return Launch({path: fill(template, values, self.script)}, ("sbatch", str(path)), remedy)


def fill(template: str, values: Mapping[str, str], where: str) -> str:
    """Put values into `{{NAME}}` places; lines that end up empty because their value is empty are dropped.

    Raises:
        ValueError: a name without a value; `where` names the template.
    """
    if unknown := sorted(set(re.findall(r"\{\{(\w+)\}\}", template)) - values.keys()):
        raise ValueError(f"{where}: no value for {{{{{unknown[0]}}}}}; there are {', '.join(values)}")
    empty = "|".join(name for name, value in values.items() if not value)
    if empty:
        template = re.sub(rf"^\{{\{{(?:{empty})\}}\}}\n", "", template, flags=re.MULTILINE)
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], template)
