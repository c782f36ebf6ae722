"""Re-scoring images on Ray: one actor a worker. Scoring is a pure function of a run's folder, so Ray may repeat it."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sfi_ray.cluster.ray.executor import ActorOptions, describe_shortage
from sfi_ray.cluster.scoring import Scored, Scorer, ScoreSpec, ScoreUnit
from sfi_ray.errors import USER_FACING_ERRORS, ResourceError
from sfi_ray.models import ClassifierPayload

_RETRIES = 3
# Units an actor holds at once, the running one included.
_IN_FLIGHT = 2


class ScoringActor(Scorer):
    """A scorer as a Ray actor."""

    def ready(self) -> None:
        """Returns once the actor is up."""


def score_on_ray(
    spec: ScoreSpec,
    payloads: Mapping[str, ClassifierPayload],
    units: Iterable[ScoreUnit],
    options: ActorOptions,
) -> Iterator[Scored]:
    """Scores units on actors; an actor that is lost comes back, and what it held is scored again.

    Args:
        spec: What is scored.
        payloads: Classifiers by name; each goes into the object store once.
        units: In the order in which they are wanted.
        options: What an actor asks of Ray.

    Yields:
        What each unit gave, in order.

    Raises:
        ResourceError: No actor can start, or one was lost too often.
    """
    remote = ray.remote(ScoringActor).options(
        num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_restarts=_RETRIES, max_task_retries=_RETRIES
    )
    references = {name: ray.put(payload) for name, payload in payloads.items()}
    # Given whole: what an actor is made of must outlive its node.
    actors = [remote.remote(spec) for _ in range(options.num_actors)]
    try:
        _wait_for_one(actors, options)
        pending: deque[Any] = deque()
        for unit, actor in zip(units, itertools.cycle(actors)):
            if len(pending) >= _IN_FLIGHT * len(actors):
                yield _result(pending.popleft())
            pending.append(actor.score.remote(unit, references[unit.classifier]))
        while pending:
            yield _result(pending.popleft())
    finally:
        for actor in actors:
            ray.kill(actor)
        references.clear()


def _wait_for_one(actors: list[Any], options: ActorOptions) -> None:
    waiting = [actor.ready.remote() for actor in actors]
    done, _ = ray.wait(waiting, num_returns=1, timeout=options.startup_seconds)
    if not done:
        raise ResourceError(describe_shortage(options, options.startup_seconds))
    _result(done[0])


def _result(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, USER_FACING_ERRORS):
            raise error.cause from error
        raise
    except RayError as error:
        reason = " ".join(str(error).split())
        raise ResourceError(f"an actor was lost {_RETRIES + 1} times: {reason}; is there enough memory?") from error
