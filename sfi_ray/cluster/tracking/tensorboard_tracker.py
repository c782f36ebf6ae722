"""Event files for TensorBoard, in the run's folder."""

from __future__ import annotations

import io
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from sfi_ray.cluster.tracking.tracker import TrackedRun, Tracker
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.progress import RunState

EVENTS = "tensorboard"
"""The folder of the event files in the run's folder."""


class TensorBoardTracker(Tracker):
    """Writes an event file for each launch; TensorBoard joins those of one folder."""

    package: ClassVar[str] = "tensorboardX"  # Ray Tune brings it
    install: ClassVar[str] = "uv sync"
    _flush_seconds: ClassVar[int] = 5

    _folder: RunFolder
    _writer: Any
    _spool: tempfile.TemporaryDirectory[str] | None
    _step: int = 0

    def open(self, run: TrackedRun, known: str | None) -> None:
        """Begins a file; see `Tracker.open`."""
        del known
        from tensorboardX import SummaryWriter

        self._folder = run.folder
        # A file elsewhere is copied as a whole. One on this machine grows in place, as TensorBoard expects.
        self._spool = None if run.folder.is_local else tempfile.TemporaryDirectory(prefix="sfi_ray_")
        self._writer = SummaryWriter(
            self._spool.name if self._spool else run.folder.inner(EVENTS).path(""),
            flush_secs=self._flush_seconds,
            filename_suffix=f".{secrets.token_hex(4)}",  # two launches may begin in one second
        )
        facts = "".join(f"| {name} | {value} |\n" for name, value in run.facts.items())
        self._writer.add_text("facts", f"| fact | value |\n|---|---|\n{facts}")

    def log(self, values: Mapping[str, float], axis: str) -> None:
        """Writes scalars."""
        self._step = int(values[axis])
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._step)
        self._copy()

    def file(self, name: str, content: bytes) -> None:
        """Writes a Markdown table as text and a PNG file as an image; other files stay in the run's folder alone."""
        tag, _, suffix = name.rpartition(".")
        if suffix == "md":
            self._writer.add_text(tag, content.decode(), self._step)
        elif suffix == "png":
            import numpy as np
            from PIL import Image

            with Image.open(io.BytesIO(content)) as image:
                self._writer.add_image(tag, np.asarray(image.convert("RGB")), self._step, dataformats="HWC")

    def close(self, state: RunState) -> None:
        """Writes the state as text, and ends the file."""
        self._writer.add_text("state", state.value, self._step)
        self._writer.close()
        self._copy()
        if self._spool:
            self._spool.cleanup()

    def _copy(self) -> None:
        if self._spool:
            for path in Path(self._spool.name).iterdir():
                self._folder.write(f"{EVENTS}/{path.name}", path.read_bytes())
