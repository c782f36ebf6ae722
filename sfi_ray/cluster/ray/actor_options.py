"""What an actor reserves on its node, in Ray's terms, and how many such actors fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ray

from sfi_ray.errors import InputError
from sfi_ray.job import Job, RoundsJob
from sfi_ray.text import MOST_REASON, printable


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """How many actors there may be, what each reserves, and how long to wait for them.

    Attributes:
        min_actors: Actors that stay until the end.
        max_actors: Actors at most.
        num_cpus: CPUs of each.
        num_gpus: GPUs of each; a fraction shares one.
        startup_seconds: How long to wait for the first of them, and for another after the last was lost.
        hang_seconds: How long one that holds leases may say nothing.
        memory: Bytes of memory of each; None reserves none.
        resources: Custom resources of each.
        accelerator_type: Kind of GPU of each; None for any.
        label_selector: Labels of the node.
    """

    min_actors: int
    max_actors: int
    num_cpus: float
    num_gpus: float
    startup_seconds: float
    hang_seconds: float
    memory: int | None = None
    resources: dict[str, float] = field(default_factory=dict)
    accelerator_type: str | None = None
    label_selector: dict[str, str] = field(default_factory=dict)

    def reserved(self) -> dict[str, Any]:
        """Returns what an actor reserves, as options of Ray."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        for name in ("memory", "resources", "accelerator_type", "label_selector"):
            if value := getattr(self, name):
                options[name] = value
        return options

    def bundle(self) -> dict[str, float]:
        """Returns what an actor reserves, apart from labels, as an autoscaler counts it."""
        bundle = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": self.memory or 0, **self.resources}
        if self.accelerator_type:
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001  # as Ray itself counts it
        return {name: amount for name, amount in bundle.items() if amount}

    def check(self) -> None:
        """Checks what Ray can check without a node.

        Raises:
            InputError: Ray refuses what an actor reserves.
        """
        try:
            ray.remote(_Nothing).options(**self.reserved())
        except (ValueError, TypeError) as error:
            reason = printable(error, MOST_REASON)
            raise InputError(
                f"cluster: Ray refuses what an actor reserves: {reason}; see resources, memory_per_actor, "
                "accelerator_type and label_selector"
            ) from error

    def fitting(self) -> int:
        """Returns how many actors fit on the nodes that are up, apart from labels."""
        return sum(self._fitting_on(node["Resources"]) for node in ray.nodes() if node["Alive"])

    def _fitting_on(self, resources: dict[str, float]) -> int:
        fits = [resources.get("CPU", 0) // self.num_cpus]
        gpus = resources.get("GPU", 0)
        if self.num_gpus:
            # A fraction of a GPU never spans two.
            fits.append(gpus * (1 // self.num_gpus) if self.num_gpus <= 1 else gpus // self.num_gpus)
        wanted = {"memory": self.memory or 0, **self.resources}
        fits.extend(resources.get(name, 0) // amount for name, amount in wanted.items() if amount)
        if self.accelerator_type and f"accelerator_type:{self.accelerator_type}" not in resources:
            return 0
        return int(min(fits))

    def describe_shortage(self, seconds: float = 0.0) -> str:
        """Describes what an actor needs and what the cluster has."""
        total, free = ray.cluster_resources(), ray.available_resources()
        kinds = ("CPU", "GPU", *(["memory"] if self.memory else []), *self.resources)
        has = ", ".join(f"{total.get(kind, 0):g} {kind} ({free.get(kind, 0):g} free)" for kind in kinds)
        needs = [f"{self.num_cpus:g} CPU", f"{self.num_gpus:g} GPU"]
        needs += [f"{self.memory:g} bytes of memory"] if self.memory else []
        needs += [f"{amount:g} {name}" for name, amount in self.resources.items()]
        needs += [f"accelerator type {self.accelerator_type}"] if self.accelerator_type else []
        needs += [f"a node with {name}={value}" for name, value in self.label_selector.items()]
        waited = f" after {seconds:.0f} s" if seconds else ""
        return (
            f"no actor could start{waited}: each needs {', '.join(needs[:-1])} and {needs[-1]}, the cluster has {has}; "
            "lower cluster.cpus_per_actor or cluster.gpus_per_actor, free the cluster, or add nodes"
        )


class _Nothing:
    """What options are tried on."""


def actor_options(job: Job | RoundsJob, device: str, min_actors: int, max_actors: int) -> ActorOptions:
    """Returns the options of a job's actors.

    Args:
        job: The job.
        device: ``cpu`` or ``cuda``; on CUDA an actor reserves a GPU unless the job says otherwise.
        min_actors: Actors that stay until the end.
        max_actors: Actors at most.

    Raises:
        InputError: Ray refuses what an actor reserves.
    """
    cluster = job.cluster
    options = ActorOptions(
        min_actors=min_actors,
        max_actors=max_actors,
        num_cpus=cluster.cpus_per_actor if cluster.cpus_per_actor is not None else float(job.compute.threads),
        num_gpus=cluster.gpus_per_actor if cluster.gpus_per_actor is not None else float(device == "cuda"),
        startup_seconds=cluster.startup_seconds,
        hang_seconds=cluster.hang_seconds,
        memory=cluster.memory_per_actor,
        resources=dict(cluster.resources),
        accelerator_type=cluster.accelerator_type,
        label_selector=dict(cluster.label_selector),
    )
    options.check()
    return options
