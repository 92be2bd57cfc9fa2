"""Nodes found by Ray Train, ranks started by torchrun.

One Ray Train worker per node runs that node's agent, so that ranks meet, save and leave as under every other backend. Signals
need the main thread of a process, which a Ray worker keeps for itself: hence the agent is a process of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bcaudio.launch.job import PREEMPTED, Job, Launch, at_least, matches, torchrun

PLACEMENTS = ("STRICT_SPREAD", "SPREAD", "PACK", "STRICT_PACK")


@dataclass(frozen=True)
class RayTrain:
    """A Ray cluster.

    Args:
        processes_per_node: ranks of a node, one per GPU where there are any.
        address: `auto` (the cluster this machine belongs to), `local` (start one here) or host:port.
        gpus: ask for one GPU per rank.
        cpus_per_process: cores per rank.
        port: the ranks meet at the first node, at this port.
        placement: how Ray spreads the agents.
        restarts: how often the job goes on after a node was lost or the ranks were preempted.
        storage: folder that all nodes share, for Ray's records; empty: beside the stage folder.
        environment: variables for the ranks.
        python: interpreter on the nodes; empty: the one that runs now, which the nodes must see, too.
    """

    processes_per_node: int
    address: str = "auto"
    gpus: bool = True
    cpus_per_process: int = 1
    port: int = 29500
    placement: str = "STRICT_SPREAD"
    restarts: int = 100
    storage: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = ""

    def __post_init__(self) -> None:
        for key in ("processes_per_node", "cpus_per_process"):
            at_least(key, getattr(self, key), 1)
        at_least("restarts", self.restarts, 0)
        matches("address", self.address, r"[A-Za-z0-9][A-Za-z0-9_.:/-]*", "auto, local or host:port")
        matches("placement", self.placement, "|".join(PLACEMENTS), "one of " + ", ".join(PLACEMENTS))
        if not 1024 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not allowed; use 1024 to 65535")

    def launch(self, job: Job) -> Launch:
        """A JSON file with the job, and this module run on it."""
        path = job.folder / f"{job.name}.ray.json"
        content = {
            "name": job.name,
            "nodes": job.nodes,
            "arguments": list(job.arguments),
            "directory": str(job.directory),
            **dataclasses.asdict(self),
            "python": self.python or sys.executable,
            "storage": str(Path(self.storage or job.folder / "ray").absolute()),
        }
        command = (sys.executable, "-m", "bcaudio.launch.ray_train", str(path))
        remedy = "pip install 'ray[train]>=2.50' here and on every node of the cluster"
        return Launch({path: json.dumps(content, indent=1) + "\n"}, command, remedy, modules=("ray", "pandas", "pyarrow"))


def run_node(job: Mapping[str, Any]) -> int:
    """What a Ray Train worker does: run this node's agent to its end and return its exit code.

    Raises:
        RuntimeError: the ranks were preempted or killed; Ray Train then starts all nodes again.
    """
    import ray.train

    first = ray.train.get_context().get_world_rank() == 0
    # Ray's own process group of one member per node gives the address of the first; its port is a new one at every start.
    address, run = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    nodes, processes = str(job["nodes"]), str(job["processes_per_node"])
    options = ("--nnodes", nodes, "--nproc-per-node", processes, "--rdzv-backend", "c10d")
    meeting = ("--rdzv-endpoint", f"{address}:{job['port']}", "--rdzv-id", f"{job['name']}-{run}")
    # said outright, since a machine does not always know its own name by the address that Ray has for it
    host = ("--rdzv-conf", f"is_host={str(first).lower()}")
    command = torchrun(job["python"], *options, *meeting, *host, arguments=job["arguments"])
    code = subprocess.run(command, cwd=job["directory"], env={**os.environ, **job["environment"]}, check=False).returncode
    if code == PREEMPTED or code < 0 or code > 128:
        raise RuntimeError(f"{job['name']}: the ranks of this node left with {code}")
    return code


def main(path: str) -> int:
    """Run the job of a file that RayTrain.launch wrote.

    Returns:
        the exit code of the ranks; 75 when the job was started again as often as it may.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    resources = {"CPU": job["cpus_per_process"] * job["processes_per_node"]}
    if job["gpus"]:
        resources["GPU"] = job["processes_per_node"]
    ray.init(address=job["address"])
    trainer = TorchTrainer(
        run_node,
        train_loop_config=job,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(
            num_workers=job["nodes"], use_gpu=job["gpus"], resources_per_worker=resources, placement_strategy=job["placement"]
        ),
        run_config=RunConfig(
            name=job["name"], storage_path=job["storage"], failure_config=FailureConfig(max_failures=job["restarts"])
        ),
    )
    try:
        return int(trainer.fit().return_value)
    except ray.train.TrainingFailedError as error:
        print(
            f"error: {job['name']}: started {job['restarts'] + 1} times, and ended too early every time: {error}", file=sys.stderr
        )
        return PREEMPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
