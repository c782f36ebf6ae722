"""Runs of Weights & Biases."""

from __future__ import annotations

import csv
import io
import os
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from sfi_ray.cluster.tracking.tracker import TrackedRun, Tracker
from sfi_ray.errors import InputError
from sfi_ray.store.progress import RunState


class WandbTracker(Tracker):
    """Follows a run as a run of a project. It sends nothing but what it is told."""

    package: ClassVar[str] = "wandb"
    install: ClassVar[str] = "uv sync --extra wandb"
    _exit_codes: ClassVar[dict[RunState, int]] = {
        RunState.FINISHED: 0,
        RunState.INTERRUPTED: 130,
        RunState.STOPPED: 1,
    }

    _run: Any
    _axis: str | None = None

    @classmethod
    def check(cls, project: str) -> None:
        """Also checks that there is a key, unless W&B works offline; see `Tracker.check`."""
        super().check(project)
        if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
            return
        import wandb

        try:
            has_key = wandb.login(prompt=False)
        except (wandb.Error, ValueError) as error:
            raise InputError(f"track: W&B says: {error}; set WANDB_API_KEY, or remove wandb from `track`") from error
        if not has_key:
            raise InputError("track: wandb has no key; run `wandb login`, set WANDB_API_KEY, or WANDB_MODE=offline")

    def open(self, run: TrackedRun, known: str | None) -> str:
        """Goes on with the run of that name, or begins one; see `Tracker.open`."""
        import wandb

        name = known or secrets.token_hex(8)
        # Without what W&B collects by itself: a command or a remote of git can hold a secret.
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            silent=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or run.project,
            id=name,
            name=run.name,
            config=dict(run.facts),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        return name

    def log(self, values: Mapping[str, float], axis: str) -> None:
        """Sends metrics."""
        if self._axis != axis:
            self._run.define_metric("*", step_metric=axis)
            self._axis = axis
        self._run.log(dict(values))

    def file(self, name: str, content: bytes) -> None:
        """Sends a CSV file as a table and a PNG file as an image; other files stay in the run's folder alone."""
        import wandb
        from PIL import Image

        key, _, suffix = name.rpartition(".")
        if suffix == "csv":
            head, *rows = csv.reader(io.StringIO(content.decode()))
            self._run.log({key: wandb.Table(columns=head, data=rows)})
        elif suffix == "png":
            with Image.open(io.BytesIO(content)) as image:
                self._run.log({key: wandb.Image(image.convert("RGB"))})

    def close(self, state: RunState) -> None:
        """Ends the run; W&B shows one that was interrupted or stopped as failed, with `state` in its summary."""
        self._run.summary["state"] = state.value
        self._run.finish(exit_code=self._exit_codes[state])
