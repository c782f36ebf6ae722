"""Connecting to Ray: a private cluster on this machine, or one that is running.

Ray reads much of its configuration from the environment when it is imported, so everything here happens before.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from sfi_ray.errors import ResourceError

# Ray's hook for `uv run` would start every worker through uv, in an environment of its own.
_ALWAYS = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What a network prints at every pass is kept in files of Ray's, which would grow for as long as a run takes.
    "RAY_ROTATION_MAX_BYTES": str(16 << 20),
    "RAY_ROTATION_BACKUP_COUNT": "1",
}
# Without clusters, which Windows and macOS do without anyway, Ray takes the loopback interface for all of its ports.
_PRIVATE = {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Weights are all that goes through the object store; it is shared memory, taken only as it fills.
_OBJECT_STORE_BYTES = 2 << 30
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class RaySession:
    """A connection to Ray.

    Attributes:
        is_local: Whether the cluster was started for this session.
        dashboard_url: Where the dashboard listens, if it runs.
        token: The token that the dashboard asks for, if this session made one.
    """

    is_local: bool
    dashboard_url: str | None
    token: str | None


@contextlib.contextmanager
def ray_session(address: str | None, *, dashboard: bool) -> Iterator[RaySession]:
    """Connects to Ray for the duration of a block.

    A process that is connected already stays so, during the block and after it.

    Args:
        address: Address of a running cluster (``host:port``, ``auto`` or ``ray://host:port``). None takes
            ``RAY_ADDRESS``; where that is unset too, a private cluster is started on this machine.
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
        # Other users of this machine reach its loopback interface: a private cluster answers only to who has its token.
        os.environ.update(_PRIVATE)
        token = os.environ["RAY_AUTH_TOKEN"] = _own_token()
    import ray

    if ray.is_initialized():
        _restore(before)
        yield RaySession(is_local=False, dashboard_url=None, token=None)
        return
    if is_local and not _asks_for_tokens():
        _restore(before)
        raise ResourceError(
            "Ray was imported in this process before the launch, with its authentication off, and cannot turn it on "
            "any more, which a private cluster needs; set RAY_AUTH_MODE=token before `import ray`, start Ray yourself "
            "with ray.init(), or launch in this process (in_process=True)"
        )
    folder = _short_folder() if is_local else None
    try:
        try:
            if is_local:
                context = ray.init(
                    address="local",
                    include_dashboard=dashboard,
                    dashboard_host="127.0.0.1",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _temp_dir=folder,
                )
            else:
                assert address is not None
                _check_answers(address)
                context = ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            place = "Ray on this machine" if is_local else f"the Ray cluster at '{address}'"
            raise ResourceError(
                f"cannot reach {place}: {error}. Check --address and, where the cluster asks for a token, "
                "RAY_AUTH_MODE=token with RAY_AUTH_TOKEN; or run without Ray: --in-process"
            ) from error
        url = context.dashboard_url if hasattr(context, "dashboard_url") else None
        try:
            yield RaySession(is_local=is_local, dashboard_url=f"http://{url}" if url else None, token=token)
        finally:
            ray.shutdown()
    finally:
        _restore(before)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def prepare_environment() -> None:
    """Sets what Ray is to be told before it is imported, whatever it is used for."""
    for key, value in _ALWAYS.items():
        os.environ.setdefault(key, value)


def _asks_for_tokens() -> bool:
    """Whether this process uses token authentication: Ray reads that from the environment once, on import."""
    from ray._raylet import AuthenticationMode, get_authentication_mode  # type: ignore[attr-defined]

    return bool(get_authentication_mode() == AuthenticationMode.TOKEN)


@functools.cache
def _own_token() -> str:
    """Makes the token of this process: Ray reads it once, so a second private cluster must have the same."""
    return secrets.token_hex(32)


def _short_folder() -> str:
    """Makes a folder for Ray's sockets, whose paths have 107 bytes at most."""
    is_usable = os.access("/tmp", os.W_OK)  # noqa: S108 - mkdtemp makes a folder that is this user's alone
    return tempfile.mkdtemp(prefix="sfi-ray-", dir="/tmp" if is_usable else None)  # noqa: S108


def _restore(environment: dict[str, str]) -> None:
    for key in (*_PRIVATE, "RAY_AUTH_TOKEN"):
        if key in environment:
            os.environ[key] = environment[key]
        else:
            os.environ.pop(key, None)


def _check_answers(address: str) -> None:
    """Checks that somebody listens: Ray itself would wait for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS):
            pass
