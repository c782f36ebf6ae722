"""What the actors of a run do now, for any process that is connected to their cluster."""

from __future__ import annotations

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from sfi_ray.cluster.ray.executor import actor_prefix


def what_actors_do(run: str, answer_seconds: float = 5.0) -> list[str]:
    """Returns a line for each actor of a run, in the order of their names.

    Args:
        run: Name of the run.
        answer_seconds: Time to wait for answers. An actor answers from a thread of its own, so one that does not is
            stuck or gone.
    """
    found = sorted(
        (str(actor["name"]), str(actor["namespace"]))
        for actor in list_named_actors(all_namespaces=True)
        if str(actor["name"]).startswith(actor_prefix(run))
    )
    asked = []
    for name, namespace in found:
        try:
            asked.append((name, ray.get_actor(name, namespace=namespace).doing.remote()))
        except ValueError:
            continue  # it ended after it was listed
    ready, _ = (
        ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=answer_seconds) if asked else ([], [])
    )
    return [f"{name}: {_answer(ref) if ref in ready else 'starts, or does not answer'}" for name, ref in asked]


def _answer(ref: object) -> str:
    try:
        return str(ray.get(ref))
    except RayError:
        return "is gone"
