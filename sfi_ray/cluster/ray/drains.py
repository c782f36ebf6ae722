"""Learns which nodes of a cluster are about to go: spot nodes with a notice, and nodes that are taken out.

A node drains after a notice of its cloud, after ``ray drain-node``, and after SIGTERM to ``ray start --block``, which
is the first process of a pod of KubeRay. Ray then places nothing new there, and tells its head but not the actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.errors import ResourceError


class DrainWatch:
    """Asks the cluster's head every few seconds which nodes drain.

    Ray has no public function for that, so a version of Ray without the one used here only ends the notices.

    Args:
        on_message: Called with messages for people.
        look_seconds: Time between two questions, short against the 30 seconds that the shortest notices leave.
    """

    def __init__(self, on_message: Callable[[str], None], look_seconds: float = 2.0) -> None:
        self._on_message = on_message
        self._look_seconds = look_seconds
        self._looked_at = -look_seconds
        self._client: Any = None
        self._is_blind = False
        #: The nodes that drain, by their ids.
        self.nodes: frozenset[str] = frozenset()

    def check(self) -> None:
        """Asks which nodes drain, if a question is due."""
        if self._is_blind or time.monotonic() - self._looked_at < self._look_seconds:
            return
        self._looked_at = time.monotonic()
        try:
            self.nodes = frozenset(self._ask())
        except (ResourceError, AttributeError, TypeError) as error:
            self._is_blind = True
            self._on_message(
                f"this Ray does not tell which nodes drain ({error}); when a node goes, searches continue from their "
                "last checkpoints"
            )
        except Exception:  # noqa: S110 - Ray raises errors of any type
            pass  # the head does not answer, which `HeadWatch` reports

    def _ask(self, answer_seconds: float = 1.0) -> Mapping[str, int]:
        if self._client is None:
            self._client = Internal.GCS_CLIENT.get()(address=ray.get_runtime_context().gcs_address)
        draining: Mapping[str, int] = self._client.get_draining_nodes(timeout=answer_seconds)
        return draining
