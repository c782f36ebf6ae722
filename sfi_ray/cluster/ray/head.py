"""Checks that the head of a Ray cluster answers, at the start of a launch and during it.

Ray's own client asks for most of a minute and prints a line for every refusal. When it loses a head, it waits silently
for a minute and then ends the process.
"""

from __future__ import annotations

import os
import socket
import time

import grpc
import ray

from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.errors import ResourceError


def check_head(address: str, answer_seconds: float = 10.0) -> None:
    """Asks the head of a cluster once whether it accepts this process.

    Args:
        address: ``host:port`` of the head.
        answer_seconds: Time to wait for the answer.

    Raises:
        ConnectionError: The head does not answer or refuses the token, or another program answers.
        ResourceError: The installed Ray has changed.
    """
    if address.startswith("ray://"):
        raise ConnectionError(
            "a launch streams from its actors, which Ray's client cannot; submit the job with --submit "
            "http://HOST:8265, the address of the cluster's dashboard, or launch on a node with --address auto"
        )
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal() or int(port) > 0xFFFF:
        raise ConnectionError("an address is host:port or auto")
    # Like Ray's own connections, without any proxy.
    channel = Internal.OPEN_CHANNEL.get()(address, options=[("grpc.enable_http_proxy", 0)])
    with channel:
        try:
            head = Internal.HEAD.get()(channel)
            head.GetClusterId(Internal.HEAD_REQUEST.get()(), timeout=answer_seconds)
        except grpc.RpcError as error:
            details = str(error.details())
            other = (
                "the program that listens there is no head of a Ray cluster, whose port mostly is 6379; "
                "for the port of a dashboard, such as 8265, there is --submit"
            )
            # gRPC's words for an answer that is not gRPC, and for a connection that was closed instead of answered.
            if "Failed parsing HTTP/2" in details or "reset by peer" in details or "Socket closed" in details:
                raise ConnectionError(other) from error
            reasons = {
                grpc.StatusCode.UNAUTHENTICATED: "it asks for its token, and "
                f"{'another' if os.environ.get('RAY_AUTH_MODE') == 'token' else 'none'} was sent; set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or ~/.ray/auth_token as on its head",
                grpc.StatusCode.UNIMPLEMENTED: other,
                grpc.StatusCode.DEADLINE_EXCEEDED: f"no answer within {answer_seconds:.0f} s",
            }
            raise ConnectionError(reasons.get(error.code()) or details) from error


class HeadWatch:
    """Checks every few seconds that the cluster's head listens.

    Args:
        look_seconds: Time between two checks.
        lost_seconds: Time without an answer after which the head counts as lost. It is half of what Ray waits, so that
            a driver can still say what happened; a head that is restarted is back by then.
    """

    def __init__(self, look_seconds: float = 3.0, lost_seconds: float = 30.0) -> None:
        self._look_seconds = look_seconds
        self._lost_seconds = lost_seconds
        self._address = str(ray.get_runtime_context().gcs_address)
        self._looked_at = self._answered_at = time.monotonic()

    def check(self) -> None:
        """Checks the head, if a check is due.

        Raises:
            ResourceError: The head has not answered for too long.
        """
        now = time.monotonic()
        if now - self._looked_at < self._look_seconds:
            return
        if now - self._looked_at > 2 * self._look_seconds:
            self._answered_at = now  # this process was stopped for a while, so the head gets its time from now on
        self._looked_at = now
        host, _, port = self._address.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
                self._answered_at = now
        except OSError as error:
            if now - self._answered_at > self._lost_seconds:
                raise ResourceError(
                    f"the head of the Ray cluster at '{self._address}' has not answered for "
                    f"{now - self._answered_at:.0f} s; finished cells are kept: start the cluster and launch again"
                ) from error
