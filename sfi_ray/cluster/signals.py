"""Ctrl-C and SIGTERM: the first one asks a driver, the second one ends it; an actor commits what is finished."""

from __future__ import annotations

import contextlib
import os
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


def interrupt() -> None:
    """Does what Ctrl-C does by itself: for `calling_on_signals`, where nothing is to be finished first.

    Raises:
        KeyboardInterrupt: Always.
    """
    raise KeyboardInterrupt


def call_on_sigterm(callback: Callable[[], None]) -> None:
    """Calls back, from a thread of its own, as soon as SIGTERM comes; for the rest of the process.

    Python's handlers wait until the main thread runs Python again, which that of an actor does now and then only. The
    first signal is for the callback alone: Ray's own handler would end the process in the middle of what it does. A
    second one goes where the first would have gone without this.

    Args:
        callback: What to do.

    Raises:
        ValueError: This is not the main thread.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def pass_on_the_second(number: int, frame: FrameType | None) -> None:
        del number, frame
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, pass_on_the_second)

    def watch() -> None:
        while received := os.read(reader, 1):
            if received[0] == signal.SIGTERM:
                callback()

    threading.Thread(target=watch, name="sigterm", daemon=True).start()
