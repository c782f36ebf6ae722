"""Ctrl-C and SIGTERM: the first one asks, the second one ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


@contextlib.contextmanager
def calling_on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Calls back on the first SIGINT or SIGTERM during a block; a second one ends the block.

    Signals reach the main thread only; in any other, the block runs as it is.

    Args:
        callback: What to do first.

    Raises:
        KeyboardInterrupt: A second signal came.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    num_received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        nonlocal num_received
        num_received += 1
        if num_received > 1:
            raise KeyboardInterrupt
        callback()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
