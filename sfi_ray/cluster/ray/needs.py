"""What a private Ray needs of this machine, where Ray itself finds out by ending the process, or waits for ever."""

from __future__ import annotations

import os
import socket
import sys

# Seen on two cores: with 64 open files Ray's node ends at its start, with 256 a launch goes through.
_FILES = 256
# Ray maps its object store into every process, beside torch: with 6 GB it ends them, with 10 GB a launch goes through.
_ADDRESS_SPACE = 10 << 30
_LOOPBACK_SECONDS = 5.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - nothing is made there here


def check_machine() -> None:
    """Checks what can be checked before Ray starts.

    Raises:
        OSError: Something is missing.
    """
    if os.name == "posix":
        import resource  # absent on Windows

        for limit, least, what in (
            (resource.RLIMIT_NOFILE, _FILES, "{} files may be open at once, and Ray needs {}: raise ulimit -n"),
            (resource.RLIMIT_AS, _ADDRESS_SPACE, "{} bytes may be mapped, and Ray needs {}: raise ulimit -v"),
        ):
            allowed = resource.getrlimit(limit)[0]
            if allowed != resource.RLIM_INFINITY and allowed < least:
                raise OSError(what.format(f"{allowed:,}", f"{least:,}"))
    if sys.platform == "linux" and not os.access(_SHARED_MEMORY, os.W_OK):
        raise OSError(f"'{_SHARED_MEMORY}', through which Ray's processes share weights, cannot be written")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        try:
            socket.create_connection(address, timeout=_LOOPBACK_SECONDS).close()
        except OSError as error:
            raise OSError(f"127.0.0.1 cannot be reached ({error.strerror or error})") from error
