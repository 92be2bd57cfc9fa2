"""Ranks on this machine."""

from __future__ import annotations

from dataclasses import dataclass

from bcaudio.launch.job import Job, Launch, at_least, torchrun


@dataclass(frozen=True)
class Local:
    """One node, this one; nothing is written.

    Args:
        processes_per_node: ranks, one per GPU where there are any.
        python: interpreter; empty: the one that runs now.
    """

    processes_per_node: int
    python: str = ""

    def __post_init__(self) -> None:
        at_least("processes_per_node", self.processes_per_node, 1)

    def launch(self, job: Job) -> Launch:
        """torchrun with a rendezvous of its own. Raises ValueError for more than one node."""
        if job.nodes != 1:
            raise ValueError(f"--nodes is {job.nodes}, but --backend local is this machine alone; use slurm, kubernetes or ray")
        options = ("--standalone", "--nproc-per-node", str(self.processes_per_node))
        return Launch(
            {}, torchrun(self.python, *options, arguments=job.arguments), "give the path of a Python as cluster.python=..."
        )
