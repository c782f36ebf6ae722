"""Asks the cluster's autoscaler for room for many actors at once.

Actors that wait are demand that an autoscaler sees, but only a bounded number of them waits at a time. Nodes that take
minutes to start would come in as many turns. A request for the whole number brings them together.

A request is one value of the whole cluster, and it outlives its driver. So it stands only while the waiting actors do
not say enough by themselves, and only for a number that the job states.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ray.autoscaler.sdk import request_resources

from sfi_ray.cluster.ray.actor_options import ActorOptions
from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.text import MOST_REASON, printable


class RoomRequest:
    """The request of one launch. On a cluster without an autoscaler it changes nothing.

    Args:
        options: What an actor reserves.
        on_message: Called with messages for people.
        renew_seconds: Time after which a request is made again, since a request of another launch replaces it, and
            after which another number replaces it.
    """

    def __init__(self, options: ActorOptions, on_message: Callable[[str], None], renew_seconds: float = 30.0) -> None:
        self._options = options
        self._on_message = on_message
        self._renew_seconds = renew_seconds
        self._asked_at = -renew_seconds
        self._stands = False
        self._is_refused = False

    def ask(self, num_actors: int) -> None:
        """Asks for room for this many actors, those that are up included."""
        if self._is_refused or time.monotonic() - self._asked_at < self._renew_seconds:
            return
        self._asked_at = time.monotonic()
        self._stands = True  # before the request, which an interrupt may leave half-made
        self._request(num_actors)

    def take_back(self) -> None:
        """Takes the request back, if there is one."""
        if self._stands:
            self._stands = False
            self._request(0)

    def _request(self, num_actors: int) -> None:
        options = self._options
        try:
            if options.label_selector and not Internal.IS_AUTOSCALER_V2.get()():
                return  # it forgets the labels, and would start nodes that no actor may use
            request_resources(
                bundles=[options.bundle()] * num_actors,
                bundle_label_selectors=[dict(options.label_selector)] * num_actors,
            )
        except Exception as error:
            if not self._is_refused:
                reason = printable(error, MOST_REASON)
                self._on_message(f"the cluster takes no request for nodes ({reason}); they come for the waiting actors")
            self._is_refused = True
