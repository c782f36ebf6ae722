"""Ctrl-C and SIGTERM: the first one asks a driver to stop, a second Ctrl-C ends it; an actor commits finished cells.

`sfi-ray stop` asks through the run's folder, from any machine, for what the first Ctrl-C does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import is_stop_requested, withdraw_stop

# Whether SIGTERM came since the outermost block began, and how many blocks there are.
_told_to_end = False
_num_blocks = 0


@contextlib.contextmanager
def calling_on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Calls back on the first SIGINT or SIGTERM during a block; a SIGINT after that ends the block.

    A second SIGTERM is ignored, in this block and in those around it, since service managers and batch systems send it
    several times. Blocks may be nested; only the innermost one calls back.

    Signals reach the main thread only; in another thread this does nothing.

    Raises:
        KeyboardInterrupt: SIGINT came, and a signal before it.
    """
    global _told_to_end, _num_blocks
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    num_received = 0

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        global _told_to_end
        nonlocal num_received
        if number == signal.SIGTERM:
            if _told_to_end:
                return
            _told_to_end = True
        num_received += 1
        if num_received > 1:
            raise KeyboardInterrupt
        callback()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    _num_blocks += 1
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _num_blocks -= 1
        if not _num_blocks:
            _told_to_end = False


@contextlib.contextmanager
def ending_on_signals() -> Iterator[None]:
    """Treats SIGTERM as Ctrl-C during a block that is a whole process, and ignores SIGTERM after the first one.

    Raises:
        KeyboardInterrupt: SIGINT or SIGTERM came.
    """
    is_ending = False
    try:
        with calling_on_signals(interrupt):
            try:
                yield
            finally:
                is_ending = _told_to_end
    finally:
        if is_ending:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


def interrupt() -> None:
    """Does what Ctrl-C does by default: for `calling_on_signals`, where nothing must be finished first.

    Raises:
        KeyboardInterrupt: Always.
    """
    raise KeyboardInterrupt


@contextlib.contextmanager
def calling_on_request(folder: RunFolder, callback: Callable[[], None], seconds: float = 2.0) -> Iterator[None]:
    """Calls back once, from a thread of its own, when a file in a folder asks its launch to end, during a block.

    The file is removed then.

    Args:
        folder: The folder of a run or of rounds.
        callback: What to do.
        seconds: Time between two looks at the folder.
    """
    has_ended = threading.Event()

    def watch() -> None:
        while not has_ended.wait(seconds):
            # A file system that does not answer for a moment is asked again.
            with contextlib.suppress(StorageError, InputError):
                if is_stop_requested(folder):
                    callback()
                    withdraw_stop(folder)
                    return

    thread = threading.Thread(target=watch, name="stop requests", daemon=True)
    thread.start()
    try:
        yield
    finally:
        has_ended.set()
        thread.join()


@contextlib.contextmanager
def interrupting_on_request(folder: RunFolder, log: Callable[[str], None]) -> Iterator[None]:
    """Does what Ctrl-C does when a file in a folder asks its launch to end, during a block.

    In another thread than the main one, where Ctrl-C does not reach, this does nothing.
    """
    main = threading.main_thread()
    if threading.current_thread() is not main:
        yield
        return

    def press() -> None:
        log("stopping, as sfi-ray stop asks")
        if hasattr(signal, "pthread_kill") and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGINT)  # also ends a wait of the main thread
        else:
            signal.raise_signal(signal.SIGINT)

    # A shell starts a process in the background with SIGINT ignored.
    with calling_on_signals(interrupt), calling_on_request(folder, press):
        yield


def call_on_sigterm(callback: Callable[[], None]) -> None:
    """Calls back, from a thread of its own, as soon as SIGTERM comes; for the rest of the process.

    Python's own handlers wait until the main thread runs Python code, which in an actor may take long. Only the
    callback gets the first signal, since Ray's handler would end the process at once. The earlier handler gets the
    second one.

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
