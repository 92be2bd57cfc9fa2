"""A PyTorchJob (kubeflow.org/v1) of the Kubeflow training operator."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from bcaudio.launch.job import Job, Launch, at_least, matches, torchrun

DNS = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
QUANTITY = r"(\d+(\.\d+)?([KMGT]i?|m)?)?"
# The operator starts a pod again after the exit codes 128 to 255 and gives up after others (restartPolicy ExitCode).
RETRIED = "143"


@dataclass(frozen=True)
class Kubernetes:
    """A Kubernetes cluster with the training operator.

    Args:
        image: container image with bcaudio installed.
        processes_per_node: ranks of a pod, one per GPU where there are any.
        namespace: of the job.
        gpu_resource: the name under which GPUs are asked for, one per rank; empty: none.
        cpu, memory: of a pod, as Kubernetes writes quantities; empty asks for none.
        shared_memory: size of /dev/shm, which data loaders and NCCL need; empty: the image's 64 MiB.
        volumes: persistent volume claim -> where it is mounted; shards and stage folders must lie on one that all pods share.
        node_selector: label -> value.
        environment: variables for the ranks.
        grace_s: between SIGTERM and SIGKILL: enough for one step and one checkpoint.
        restarts: how often a job is started again before it counts as failed.
        python: interpreter in the image.
        directory: where the ranks run; empty: the image's.
    """

    image: str
    processes_per_node: int
    namespace: str = "default"
    gpu_resource: str = "nvidia.com/gpu"
    cpu: str = ""
    memory: str = ""
    shared_memory: str = ""
    volumes: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    grace_s: int = 120
    restarts: int = 100
    python: str = "python"
    directory: str = ""

    def __post_init__(self) -> None:
        for key in ("processes_per_node", "grace_s"):
            at_least(key, getattr(self, key), 1)
        at_least("restarts", self.restarts, 0)
        matches("image", self.image, r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*", "a container image: letters, digits and _ . : / @ -")
        matches("namespace", self.namespace, DNS, "lower-case letters, digits and -")
        for key in ("cpu", "memory", "shared_memory"):
            matches(key, getattr(self, key), QUANTITY, "a quantity such as 64, 500m or 200Gi")
        for claim, path in self.volumes.items():
            matches("volumes", claim, DNS, "names of claims: lower-case letters, digits and -")
            matches(f"volumes.{claim}", path, r"/.*", "an absolute path")

    def launch(self, job: Job) -> Launch:
        """The manifest and `kubectl apply` on it. Raises ValueError for a stage whose name makes no name of a job."""
        path = job.folder / f"{job.name}.pytorchjob.yaml"
        text = yaml.safe_dump(self.manifest(job), sort_keys=False, width=130)
        remedy = "install kubectl and give it the cluster's context; --dry-run needs neither"
        return Launch({path: text}, ("kubectl", "apply", "--filename", str(path)), remedy)

    def manifest(self, job: Job) -> dict[str, Any]:
        """The PyTorchJob; the operator gives torchrun the rendezvous, the number of nodes and of ranks as PET_* variables."""
        name = re.sub(r"[^a-z0-9]+", "-", job.name.lower()).strip("-")
        matches("name", name, DNS, "at most 63 letters and digits for the name of a Kubernetes job")
        amounts = {"cpu": self.cpu, "memory": self.memory, self.gpu_resource: str(self.processes_per_node)}
        resources = {key: amount for key, amount in amounts.items() if key and amount}
        volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim in self.volumes]
        mounts = [{"name": claim, "mountPath": path} for claim, path in self.volumes.items()]
        if self.shared_memory:
            volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": self.shared_memory}})
            mounts.append({"name": "shm", "mountPath": "/dev/shm"})
        container: dict[str, Any] = {
            "name": "pytorch",  # the operator looks for this name
            "image": self.image,
            "command": [
                # Kubernetes replaces $(NAME) here; $$( is how it writes a plain $(
                text.replace("$(", "$$(")
                for text in torchrun(self.python, "--preempted-code", RETRIED, arguments=job.arguments)
            ],
            "env": [{"name": key, "value": value} for key, value in self.environment.items()],
            "resources": {"requests": dict(resources), "limits": dict(resources)},
            "volumeMounts": mounts,
        }
        if self.directory:
            container["workingDir"] = self.directory
        pod: dict[str, Any] = {
            "terminationGracePeriodSeconds": self.grace_s,
            "containers": [container],
            "volumes": volumes,
        }
        if self.node_selector:
            pod["nodeSelector"] = dict(self.node_selector)
        return {
            "apiVersion": "kubeflow.org/v1",
            "kind": "PyTorchJob",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "nprocPerNode": str(self.processes_per_node),
                # A fixed number of nodes; this policy is what makes the operator set up torchrun's c10d rendezvous.
                "elasticPolicy": {"rdzvBackend": "c10d", "minReplicas": job.nodes, "maxReplicas": job.nodes, "maxRestarts": 0},
                "runPolicy": {"cleanPodPolicy": "None", "backoffLimit": self.restarts},
                "pytorchReplicaSpecs": {
                    "Worker": {"replicas": job.nodes, "restartPolicy": "ExitCode", "template": {"spec": pod}},
                },
            },
        }
