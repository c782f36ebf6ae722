"""Downloads of weights that do not wait for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def impatient_sockets(seconds: float = 20.0) -> Iterator[None]:
    """Lets new connections of this process wait for an answer no longer than `seconds`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
