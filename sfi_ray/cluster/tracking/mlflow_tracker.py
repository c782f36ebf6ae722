"""Runs of MLflow, through its client."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from sfi_ray.cluster.tracking.tracker import TrackedRun, Tracker, without_secrets
from sfi_ray.errors import InputError
from sfi_ray.store.progress import RunState

ADDRESS = "MLFLOW_TRACKING_URI"


class MlflowTracker(Tracker):
    """Follows a run as a run of an experiment, with the report as its artifacts."""

    package: ClassVar[str] = "mlflow"
    install: ClassVar[str] = "uv sync --extra mlflow"
    _statuses: ClassVar[dict[RunState, str]] = {
        RunState.FINISHED: "FINISHED",
        RunState.INTERRUPTED: "KILLED",
        RunState.STOPPED: "FAILED",
    }

    _client: Any
    _run_id: str

    @classmethod
    def check(cls, project: str) -> None:
        """Also asks for the experiment, existing or not, to find a wrong address early; see `Tracker.check`."""
        super().check(project)
        address = os.environ.get(ADDRESS)
        if not address:
            raise InputError(f"track: mlflow needs {ADDRESS}, the address of its server; set it")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # by default, it tries for minutes
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the address may hold a password
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            MlflowClient(address).get_experiment_by_name(_experiment(project))
        except (MlflowException, ImportError) as error:
            raise InputError(
                f"track: {ADDRESS} is '{without_secrets(address)}', and MLflow says: "
                f"{without_secrets(str(error)).rstrip('.')}; set it to another address, or remove mlflow from `track`"
            ) from error

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Goes on with the run where the server still has it; see `Tracker.open`."""
        from mlflow import MlflowClient
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        self._client = MlflowClient(os.environ[ADDRESS])
        name = _experiment(run.project)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        if known is not None:
            try:
                if self._client.get_run(known).info.experiment_id == experiment_id:
                    self._run_id = known
                    self._client.update_run(known, status="RUNNING")
                    return known
            except MlflowException:  # another server, or it was deleted there
                pass
        self._run_id = str(self._client.create_run(experiment_id, run_name=run.name).info.run_id)
        self._client.log_batch(self._run_id, params=[Param(key, str(fact)[:500]) for key, fact in run.facts.items()])
        return self._run_id

    def log(self, values: Mapping[str, float], axis: str) -> None:
        """Sends metrics."""
        from mlflow.entities import Metric

        now, step = int(time.time() * 1000), int(values[axis])
        self._client.log_batch(self._run_id, [Metric(name, value, now, step) for name, value in values.items()])

    def file(self, name: str, content: bytes) -> None:
        """Sends a file as an artifact."""
        where = PurePosixPath(name)
        with tempfile.TemporaryDirectory(prefix="sfi_ray_") as folder:
            path = Path(folder, where.name)
            path.write_bytes(content)
            self._client.log_artifact(self._run_id, str(path), None if where.parent.name == "" else str(where.parent))

    def close(self, state: RunState) -> None:
        """Ends the run as FINISHED, KILLED (interrupted) or FAILED (stopped by an error)."""
        self._client.set_tag(self._run_id, "state", state.value)
        self._client.set_terminated(self._run_id, self._statuses[state])


def _experiment(project: str) -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or project
