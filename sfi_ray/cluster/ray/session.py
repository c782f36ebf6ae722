"""Connecting to Ray: to a private cluster on this machine, or to a running one.

Ray reads much of its configuration from the environment on import, so this module sets it before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.cluster.ray.needs import check_machine
from sfi_ray.cluster.ray.private_folder import private_folder, short_temporary_directory
from sfi_ray.cluster.signals import calling_on_signals, interrupt
from sfi_ray.errors import ResourceError
from sfi_ray.text import printable

# Ray's hook for `uv run` would start every worker through uv, in an environment of its own.
_ALWAYS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Drivers report lost actors themselves; Ray would print a trace for every result that nobody awaits.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # Ray keeps what a network prints at every pass in log files, which would grow during the whole run.
    "RAY_ROTATION_MAX_BYTES": str(16 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
}
# Without support for clusters on Windows and macOS, Ray opens all its ports on the loopback interface.
_PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass(frozen=True, slots=True)
class RaySession:
    """A connection to Ray.

    Attributes:
        is_local: Whether the cluster was started for this session.
        dashboard_url: Where the dashboard listens, if it runs.
        token: The token of the dashboard, if this session made one.
    """

    is_local: bool
    dashboard_url: str | None
    token: str | None


@contextlib.contextmanager
def ray_session(address: str | None, *, dashboard: bool) -> Iterator[RaySession]:
    """Connects to Ray for the duration of a block.

    A process that is already connected stays connected, during the block and after it.

    Args:
        address: Address of a running cluster (``host:port`` or ``auto``). None takes
            ``RAY_ADDRESS``; where that is unset, a private cluster starts on this machine.
        dashboard: Whether a private cluster has a dashboard. It listens on the loopback interface only.

    Raises:
        ResourceError: The cluster does not answer, or Ray cannot start.
    """
    prepare_environment()
    address = address or os.environ.get("RAY_ADDRESS") or None
    is_local = address is None or address == "local"
    token = None
    before = dict(os.environ)
    if is_local:
        # Other users of this machine reach its loopback interface: a private cluster answers only to its token.
        os.environ.update(_PRIVATE)
        token = os.environ["RAY_AUTH_TOKEN"] = _own_token()
    # In a notebook, Ray and tqdm would each ask for ipywidgets, which nothing here needs.
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import ray

    if ray.is_initialized():
        _restore(before)
        yield RaySession(is_local=False, dashboard_url=None, token=None)
        return
    with contextlib.ExitStack() as stack:
        stack.callback(_restore, before)
        if is_local and not _asks_for_tokens():
            raise ResourceError(
                "a private Ray cluster needs token authentication, and this process imported Ray with it off; set "
                "RAY_AUTH_MODE=token before `import ray`, start Ray yourself with ray.init(), or launch in this "
                "process (in_process=True)"
            )
        stack.enter_context(calling_on_signals(interrupt))
        try:
            context = _start(stack, dashboard=dashboard) if address is None or is_local else _connect(stack, address)
        except Exception as error:  # Ray raises errors of any type
            place = "start Ray on this machine" if is_local else f"reach the Ray cluster at '{address}'"
            raise ResourceError(
                f"cannot {place}: {_in_one_line(error)}; --in-process (in_process=True) runs without Ray"
            ) from error
        # An error at the start holds its reason; later errors need a line of their own.
        logging.getLogger("ray").setLevel(logging.ERROR)
        url = context.dashboard_url if hasattr(context, "dashboard_url") else None
        yield RaySession(is_local=is_local, dashboard_url=f"http://{url}" if url else None, token=token)


def waiting_for(address: str | None) -> str | None:
    """Returns what a session at an address waits for, in one line; None where this process is already connected."""
    ray = sys.modules.get("ray")  # importing it takes seconds, too
    if ray is not None and ray.is_initialized():
        return None
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    return "Starting Ray on this machine ..." if address == "local" else f"Connecting to Ray at '{address}' ..."


def _start(stack: contextlib.ExitStack, *, dashboard: bool) -> Any:
    """Starts a private cluster, which ends with the stack."""
    import ray

    from sfi_ray.cluster.ray.processes import end_without_sigterm, sigterm_for_the_driver

    check_machine()
    folder = stack.enter_context(private_folder())
    stack.callback(_shut_down)
    # Ray has read this from the environment if the process imported it before.
    stack.enter_context(Internal.ENABLE_CLUSTER.replaced(False))
    if short := short_temporary_directory(folder):
        os.environ["TMPDIR"] = short
    try:
        with sigterm_for_the_driver():
            context = ray.init(
                address="local",
                include_dashboard=dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                # Only weights go through the object store; it is shared memory, taken only as it fills.
                object_store_memory=2 << 30,
                _temp_dir=str(folder),  # not a promise of Ray's; a Ray without it raises an error that names it
            )
            end_without_sigterm()
            return context
    except Exception as error:
        place, free = folder.parents[1], shutil.disk_usage(folder.parent).free
        if free < 8 << 20:  # without room for their logs, Ray's processes end or wait for each other
            raise OSError(f"{free >> 10:,} KiB are free in '{place}'; free some, or set TMPDIR") from error
        raise


def _connect(stack: contextlib.ExitStack, address: str) -> Any:
    """Connects to a cluster until the stack ends."""
    import ray

    from sfi_ray.cluster.ray.head import check_head  # imports Ray
    from sfi_ray.cluster.ray.processes import sigterm_for_the_driver

    if address == "auto":
        address = Internal.FIND_HEAD.get()(address) or address
    check_head(address)
    stack.callback(_shut_down)
    with sigterm_for_the_driver():
        return ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)


def _shut_down() -> None:
    """Leaves Ray; the processes that it started for this one have ended after that."""
    import ray

    from sfi_ray.cluster.ray.processes import sigterm_for_the_driver

    with sigterm_for_the_driver():
        # Otherwise Ray waits a second for each, and a busy machine leaves zombies to a process that goes on.
        ray.shutdown(wait_for_processes=True)


def _in_one_line(error: Exception) -> str:
    """Returns the text of an error; of a long one, such as a log, its beginning and its end."""
    return printable(" ".join(str(error).split()).rstrip(".") or type(error).__name__, 400)


def prepare_environment() -> None:
    """Sets the environment variables that Ray reads on import."""
    for key, value in _ALWAYS.items():
        os.environ.setdefault(key, value)


def _asks_for_tokens() -> bool:
    """Whether this process uses token authentication: Ray reads that from the environment once, on import."""
    return bool(Internal.AUTHENTICATION_MODE.get()() == Internal.TOKEN_MODE.get())


@functools.cache
def _own_token() -> str:
    """Makes the token of this process: Ray reads it once, so all private clusters of a process share it."""
    return secrets.token_hex(32)


def _restore(environment: dict[str, str]) -> None:
    for key in (*_PRIVATE, "RAY_AUTH_TOKEN", "TMPDIR"):
        if key in environment:
            os.environ[key] = environment[key]
        else:
            os.environ.pop(key, None)
