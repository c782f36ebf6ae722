"""The job server of a Ray cluster: submits a job, follows its output, and learns how it ended.

The run's folder holds all lasting results. The server answers the rest: which of its jobs writes to a folder, and what
that job prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from sfi_ray.cluster.ray.internals import Internal
from sfi_ray.cluster.ray.session import prepare_environment
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.location import is_same


class ConnectionLostError(ResourceError):
    """A cluster is out of reach; the submitted job may still run there."""


class JobServer:
    """The job server of a cluster, on the port of its dashboard.

    Args:
        url: Its address, such as ``http://127.0.0.1:8265``; None takes ``RAY_API_SERVER_ADDRESS``, or the port
            where a dashboard listens on its own machine and at the other end of an ssh tunnel.

    Raises:
        ResourceError: It does not answer, or asks for a token that this machine does not have.
    """

    #: How long a server may be out of reach before `follow` gives up.
    patience_seconds: ClassVar[float] = 300.0
    seconds_between_tries: ClassVar[float] = 2.0
    #: A request that takes longer, or a job that is silent for longer, may be a connection that broke without a sign.
    silence_seconds: ClassVar[float] = 30.0
    #: The key of a job's metadata that names the run's folder.
    _run_key: ClassVar[str] = "sfi_ray_run"

    def __init__(self, url: str | None = None) -> None:
        self.url = url or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"
        if "://" not in self.url:
            self.url = f"http://{self.url}"
        with self._explained():
            self._client = _client(self.url)

    def submit(self, command: str, folder: Path, run: str, name: str) -> None:
        """Submits a job.

        Args:
            command: What to run, for a shell of the cluster's head.
            folder: Its working folder, which is sent along.
            run: Path or URI of the run's folder that the job writes to.
            name: Name of the job, which must be new.

        Raises:
            InputError: Another running job writes to the same folder.
            ResourceError: The server refuses it.
        """
        with self._explained():
            running = self._latest(run)
            if running is not None and not running.status.is_terminal():
                raise InputError(
                    f"job '{running.submission_id}' already writes to '{run}'; follow it with sfi-ray attach {run}"
                )
            self._submit(
                entrypoint=command,
                submission_id=name,
                runtime_env={
                    "working_dir": str(folder),
                    # A driver that is asked to stop commits what is finished; Ray's own three seconds are too short.
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "70"},
                },
                metadata={self._run_key: run},
            )

    def _submit(self, **job: Any) -> None:
        deadline = time.monotonic() + 60.0  # a head answers some time before it can take jobs
        while True:
            try:
                self._client.submit_job(**job)
            except RuntimeError as error:
                if "try again later" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(self.seconds_between_tries)
            else:
                return

    def find(self, run: str) -> str:
        """Returns the name of the latest job that writes to a run's folder.

        Args:
            run: Path or URI of the run's folder, which may end with a slash; of a URI, options may be left out.

        Raises:
            InputError: There is none.
        """
        with self._explained():
            found = self._latest(run)
        if found is None:
            raise InputError(
                f"the cluster at {self.url} knows no job that writes to '{run}'; see the run with sfi-ray status "
                f"{run}, and submit the job again to go on"
            )
        return str(found.submission_id)

    def follow(self, name: str, write: Callable[[str], None], log: Callable[[str], None]) -> int | None:
        """Passes on the output of a job, from its beginning to its end; reconnects after a lost connection.

        Args:
            name: Name of the job.
            write: Takes the output.
            log: Takes a line on the connection.

        Returns:
            Exit code of the job; None if it was stopped.

        Raises:
            ConnectionLostError: The cluster has been out of reach for `patience_seconds`.
            ResourceError: The cluster no longer knows the job, or could not run it to its end.
        """
        printed = _Printed(write)
        return self._exit_code(self._ended(name, printed, log))

    def _ended(self, name: str, printed: _Printed, log: Callable[[str], None]) -> Any:
        """Returns the server's details of a job, after its end and all of its output."""
        lost_since: float | None = None
        while True:
            try:
                details = self._details(name)
                if details.status.is_terminal():
                    # The output that came while nobody listened.
                    printed.rewind()
                    printed.take(self._client.get_job_logs(name))
                    return details
                asyncio.run(self._listen(name, printed))
            except ResourceError:
                raise
            except _connection_errors() as error:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                if lost_since is None:
                    lost_since = time.monotonic()
                    log(f"the connection to {self.url} is lost ({reason}); trying again")
                elif time.monotonic() - lost_since > self.patience_seconds:
                    raise ConnectionLostError(f"{self.url} has been out of reach for too long ({reason})") from error
                time.sleep(self.seconds_between_tries)
            else:
                lost_since = None

    async def _listen(self, name: str, printed: _Printed) -> None:
        """Passes on the output of a job until it ends, is silent for a while, or the connection breaks."""
        printed.rewind()
        chunks = self._client.tail_job_logs(name)
        with contextlib.suppress(StopAsyncIteration, TimeoutError):
            while True:
                async with asyncio.timeout(self.silence_seconds):
                    chunk = await anext(chunks)
                printed.take(chunk)

    def _details(self, name: str) -> Any:
        try:
            return self._client.get_job_info(name)
        except RuntimeError as error:
            if "status code 404" not in str(error):
                raise
            raise ResourceError(
                f"the cluster at {self.url} does not know job '{name}'; if it was restarted, submit the job again: "
                "finished cells are kept"
            ) from error

    def _exit_code(self, details: Any) -> int | None:
        if details.status == "SUCCEEDED":
            return 0
        if details.status == "STOPPED":
            return None
        if details.driver_exit_code is None:
            reason = " ".join(str(details.message).split())[-500:]
            raise ResourceError(
                f"the cluster could not run job '{details.submission_id}' to its end: {reason}; submit the job again "
                "to go on: finished cells are kept"
            )
        code = int(details.driver_exit_code)
        return code if code >= 0 else 128 - code

    def _latest(self, run: str) -> Any:
        """Returns the server's details of the latest job that writes to a run's folder; None where there is none."""
        jobs = [
            job
            for job in self._client.list_jobs()
            if is_same((job.metadata or {}).get(self._run_key, ""), run) and job.submission_id
        ]
        return max(jobs, key=lambda job: job.start_time or 0, default=None)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (InputError, ResourceError):
            raise
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ResourceError(
                f"cannot reach the cluster's dashboard at {self.url}: {reason}; open a tunnel to it, for instance "
                "with `ray dashboard cluster.yaml`, or give its address"
            ) from error


class _Printed:
    """The output of a job, passed on once even though every connection repeats it from the beginning."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._passed_on = 0
        self._position = 0

    def rewind(self) -> None:
        self._position = 0

    def take(self, chunk: str) -> None:
        """Takes what comes after the last chunk."""
        new = chunk[max(0, self._passed_on - self._position) :]
        self._position += len(chunk)
        if new:
            self._write(new)
            self._passed_on = self._position


def _client(url: str) -> Any:
    prepare_environment()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for logger in (  # they tell of every request
        "ray.dashboard.modules.dashboard_sdk",
        "ray.dashboard.modules.job.sdk",
        "ray._private.runtime_env.packaging",
    ):
        logging.getLogger(logger).setLevel(logging.WARNING)
    token = _token()
    Internal.JOB_REQUEST.get()  # which the client below extends

    class Client(JobSubmissionClient):  # type: ignore[misc]
        """A client with a time limit; Ray's own waits forever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            try:
                return super()._do_request(method, endpoint, timeout=JobServer.silence_seconds, **options)
            except AuthenticationError as error:
                raise ResourceError(
                    f"the cluster at {url} asks for its token, and this machine has "
                    f"{'another one' if token else 'none'}; copy ~/.ray/auth_token of its head to this machine, or set "
                    "RAY_AUTH_TOKEN"
                ) from error

    # These variables would override the address.
    hidden = {key: os.environ.pop(key, None) for key in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        # Without a header, Ray's client looks for a token itself and fails before it asks the cluster.
        return Client(url, headers={"Authorization": f"Bearer {token}" if token else ""})
    finally:
        os.environ.update({key: value for key, value in hidden.items() if value is not None})


def _token() -> str | None:
    """Returns the cluster's token from Ray's own places, even if Ray's authentication is off in this process."""
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return file.read_text("utf-8").strip() or None
    except (OSError, ValueError):
        return None


def _connection_errors() -> tuple[type[Exception], ...]:
    import aiohttp
    import requests

    return (requests.RequestException, aiohttp.ClientError, RuntimeError)
