"""A thread that calls a tracker, so that none can hold up or end a search."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Sender:
    """Makes calls one after another in a thread of its own, until one raises.

    Args:
        patience_seconds: Longest time that `close` waits for one call.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._num_done = 0
        self._problem: str | None = None
        self._is_told = False
        # A daemon, since a process must not wait for a server that is gone.
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def send(self, call: Callable[[], object], *, is_optional: bool = False) -> None:
        """Makes a call soon; an optional one only if no other call waits."""
        if self._problem is None and not (is_optional and self._calls.qsize()):
            self._calls.put(call)

    def problem(self) -> str | None:
        """Returns why the calls ended, once; None where they go on."""
        if self._problem is None or self._is_told:
            return None
        self._is_told = True
        return self._problem

    def close(self) -> None:
        """Waits until all calls are made, or one takes too long."""
        self._calls.put(None)
        num_done = -1
        while self._thread.is_alive() and num_done != self._num_done:
            num_done = self._num_done
            self._thread.join(self._patience_seconds)
        if self._thread.is_alive() and self._problem is None:
            self._problem = f"no answer in {self._patience_seconds:g} s"

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._problem is None:
                try:
                    call()
                except Exception as error:  # whatever a service does, the search goes on
                    self._problem = " ".join(f"{type(error).__name__}: {error}".split())
            self._num_done += 1
