"""Re-scoring images on Ray actors. Scoring is a pure function of a run's folder, so Ray may repeat it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sfi_ray.cluster.ray.actor_options import ActorOptions
from sfi_ray.cluster.ray.losses import raising_user_errors
from sfi_ray.cluster.scoring import Scored, Scorer, ScoreSpec, ScoreUnit
from sfi_ray.errors import ResourceError
from sfi_ray.models import ClassifierPayload


class ScoringActor(Scorer):
    """A scorer as a Ray actor."""

    def ready(self) -> None:
        """Returns once the actor is up."""


def score_on_ray(
    spec: ScoreSpec,
    payloads: Mapping[str, ClassifierPayload],
    units: Iterable[ScoreUnit],
    options: ActorOptions,
    *,
    in_flight: int = 2,
    retries: int = 3,
) -> Iterator[Scored]:
    """Scores units on actors; Ray restarts a lost actor and scores its units again.

    Args:
        spec: What is scored.
        payloads: Classifiers by name; each goes into the object store once.
        units: The units, in the order of the results.
        options: Resources and time limits of an actor.
        in_flight: Units that an actor holds at once, the running one included.
        retries: How often Ray restarts an actor and repeats a unit.

    Yields:
        The scores of each unit, in order.

    Raises:
        ResourceError: No actor can start, or one was lost too often.
    """
    remote = ray.remote(ScoringActor).options(max_restarts=retries, max_task_retries=retries, **options.reserved())
    references = {name: ray.put(payload) for name, payload in payloads.items()}
    # By value: the arguments of an actor must outlive its node.
    actors = [remote.remote(spec) for _ in range(options.max_actors)]
    try:
        _wait_for_one(actors, options, retries)
        pending: deque[Any] = deque()
        for unit, actor in zip(units, itertools.cycle(actors)):
            if len(pending) >= in_flight * len(actors):
                yield _result(pending.popleft(), retries)
            pending.append(actor.score.remote(unit, references[unit.classifier]))
        while pending:
            yield _result(pending.popleft(), retries)
    finally:
        for actor in actors:
            ray.kill(actor)
        references.clear()


def _wait_for_one(actors: list[Any], options: ActorOptions, retries: int) -> None:
    waiting = [actor.ready.remote() for actor in actors]
    done, _ = ray.wait(waiting, num_returns=1, timeout=options.startup_seconds)
    if not done:
        raise ResourceError(options.describe_shortage(options.startup_seconds))
    _result(done[0], retries)


def _result(reference: Any, retries: int) -> Any:
    try:
        with raising_user_errors():
            return ray.get(reference)
    except RayTaskError:
        raise
    except RayError as error:
        reason = " ".join(str(error).split())
        raise ResourceError(f"an actor was lost {retries + 1} times: {reason}; is there enough memory?") from error
