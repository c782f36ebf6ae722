"""Whether the head of a Ray cluster still answers: Ray itself says nothing for a minute and then ends the process."""

from __future__ import annotations

import socket
import time

import ray

from sfi_ray.errors import ResourceError

# Half of what Ray waits, so that a driver can still say what happened; a head that is restarted is back by then.
_LOST_SECONDS = 30.0
_LOOK_SECONDS = 3.0
_CONNECT_SECONDS = 1.0


class HeadWatch:
    """Looks every few seconds whether somebody listens where the cluster's head should be."""

    def __init__(self) -> None:
        self._address = str(ray.get_runtime_context().gcs_address)
        self._looked_at = self._answered_at = time.monotonic()

    def check(self) -> None:
        """Looks, when it is time to.

        Raises:
            ResourceError: The head has not answered for half a minute.
        """
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        if now - self._looked_at > 2 * _LOOK_SECONDS:
            self._answered_at = now  # this process was held up itself: the head gets its time from here on
        self._looked_at = now
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
                self._answered_at = now
        except OSError as error:
            if now - self._answered_at > _LOST_SECONDS:
                raise ResourceError(
                    f"the head of the Ray cluster at '{self._address}' has not answered for "
                    f"{now - self._answered_at:.0f} s; finished cells are kept: start the cluster and launch again"
                ) from error
