"""SIGTERM and the processes of a private Ray: all of them may get it, and only the driver acts on it.

A service manager or a batch system signals a whole group of processes. If Ray's processes ended at once, the driver
would end with them before it commits its rows, since Ray ends a process that loses its node.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

from sfi_ray.cluster.ray.internals import Internal


@contextlib.contextmanager
def sigterm_for_the_driver() -> Iterator[None]:
    """Keeps SIGTERM from Ray, and from all processes that start during a block in which Ray starts or ends.

    One of Ray's handlers ends this process at once. Another prints a trace, and Ray removes it when it ends. A SIGTERM
    during the block reaches the earlier handler after the block.
    """

    def keep(handler: object) -> None:
        del handler

    has_masks = hasattr(signal, "pthread_sigmask")  # Windows has none
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}) if has_masks else set()
    try:
        with Internal.SIGTERM_HANDLER.replaced(keep):
            yield
    finally:
        _hear_again()
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_without_sigterm() -> None:
    """Makes `ray.shutdown` end processes without SIGTERM, which they ignore."""
    node = Internal.NODE.get()
    open_channel, stub, request = (
        part.get() for part in (Internal.OPEN_CHANNEL, Internal.RAYLET, Internal.RAYLET_REQUEST)
    )
    processes = {kind: info.process for kind, infos in node.all_processes.items() for info in infos}
    for process in processes.values():
        process.terminate = process.kill
    address = f"{node.node_ip_address}:{node.node_manager_port}"

    def ask() -> None:
        # It ends its actors and agents before itself; otherwise Ray kills it after a second.
        with contextlib.suppress(Exception), open_channel(address) as channel:
            stub(channel).ShutdownRaylet(request(graceful=True), timeout=1.0)

    processes["raylet"].terminate = ask
    theirs = node.destroy_external_storage

    def hear_first() -> None:
        # Ray calls this after it removed its native handler, and with it the one below.
        _hear_again()
        theirs()

    node.destroy_external_storage = hear_first


def _hear_again() -> None:
    """Restores this process's own handler, which Ray's native ones replaced without Python's knowledge."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
