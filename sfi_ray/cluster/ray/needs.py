"""Checks of what a private Ray needs of this machine; without them, Ray ends the process or waits forever."""

from __future__ import annotations

import os
import socket
import sys


def check_machine() -> None:
    """Checks limits, shared memory and the loopback interface before Ray starts.

    Raises:
        OSError: Something is missing.
    """
    if os.name == "posix":
        import resource  # absent on Windows

        # Seen on two cores: with 64 open files Ray's node ends at its start, with 256 a launch goes through.
        # Ray maps its object store into every process, beside torch: with 6 GB it ends them, with 10 GB it does not.
        for limit, least, what in (
            (resource.RLIMIT_NOFILE, 256, "{} files may be open at once, but Ray needs {}: raise ulimit -n"),
            (resource.RLIMIT_AS, 10 << 30, "{} bytes may be mapped, but Ray needs {}: raise ulimit -v"),
        ):
            allowed = resource.getrlimit(limit)[0]
            if allowed != resource.RLIM_INFINITY and allowed < least:
                raise OSError(what.format(f"{allowed:,}", f"{least:,}"))
    shared_memory = "/dev/shm"  # noqa: S108 - this only looks at it
    if sys.platform == "linux" and not os.access(shared_memory, os.W_OK):
        raise OSError(f"'{shared_memory}', through which Ray's processes share weights, cannot be written")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        try:
            socket.create_connection(address, timeout=5.0).close()
        except OSError as error:
            raise OSError(f"127.0.0.1 cannot be reached ({error.strerror or error})") from error
