"""A launch on a console: a bar on a terminal or in a notebook, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Iterator
from html import escape
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.models import TrainingProgress
from sfi_ray.text import MOST_LINE, MOST_NAME, counted, printable


class ConsoleReporter(Reporter):
    """Shows a launch on a terminal or in a notebook.

    Args:
        console: Where to show it; standard error if None.
        seconds_between_lines: Time between two lines on progress where the console shows no bars.
    """

    def __init__(self, console: Console | None = None, seconds_between_lines: float = 15.0) -> None:
        self._console = console or Console(stderr=True)
        # A notebook wraps plain lines and keeps them together; each of rich's would be an output of its own.
        self._lines = Console(force_jupyter=False) if self._console.is_jupyter else self._console
        self._seconds_between_lines = seconds_between_lines
        self._bars: _Bars | None = None
        self._totals: dict[str, int] = {}
        self._last_line = time.monotonic()

    @property
    def _is_live(self) -> bool:
        return self._console.is_terminal or self._console.is_jupyter

    def log(self, text: str) -> None:
        """Prints one line."""
        self._lines.print(printable(text, MOST_LINE), highlight=False, markup=False, soft_wrap=True)

    def dashboard(self, url: str, token: str | None) -> None:
        """Prints where Ray's dashboard listens; a terminal also shows its token, since a terminal keeps nothing."""
        if token:
            # Rich takes a file for a terminal where colours are forced.
            is_seen = self._console.file.isatty()
            url += f" (token {token})" if is_seen else " (it asks for a token, which only a terminal shows)"
        super().dashboard(url, None)

    def training(self, classifier: str, progress: TrainingProgress) -> None:
        """Shows the progress of an epoch of training."""
        if not self._is_live and not self._is_due():
            return
        held_out = "" if progress.test_accuracy is None else f", held-out accuracy {progress.test_accuracy:.1%}"
        note = (
            f"epoch {progress.epoch} of {progress.epochs}, loss {progress.loss:.3f}, "
            f"accuracy {progress.train_accuracy:.1%}{held_out}, {progress.images_per_second:,.0f} images/s, "
            f"{_duration(progress.seconds_left)} left"
        )
        if self._is_live:
            seen = (progress.epoch - 1) * progress.num_images + progress.num_seen
            self._update(f"training {classifier}", seen, progress.epochs * progress.num_images, note)
        else:
            self.log(f"training {classifier}: {note}")

    def trained(self, classifier: str, epoch: int, num_epochs: int, accuracy: float) -> None:
        """Shows an epoch of training."""
        note = f"held-out accuracy {accuracy:.1%}"
        if self._is_live:
            self._finish_epoch(f"training {classifier}", epoch, num_epochs, note)
        elif epoch == num_epochs:
            self.log(f"trained {classifier} in {num_epochs} epochs: {note}")
        elif self._is_due():
            self.log(f"training {classifier}: epoch {epoch} of {num_epochs}, {note}")

    def progressed(self, tally: Tally, seconds_left: float | None) -> None:
        """Shows the search."""
        left = "" if seconds_left is None else f", {_duration(seconds_left)} left"
        failed = f", {tally.failed:,} failed" if tally.failed else ""
        retries = f", {tally.retries:,} retried" if tally.retries else ""
        speed = f"{tally.evaluations_per_second:,.0f} evaluations/s, {counted(tally.workers, 'actor')}{left}"
        if not tally.workers and tally.finished < tally.num_cells:
            speed = "waiting for actors"
        note = f"{tally.fooled:,} fooled{failed}{retries}, {speed}"
        if self._is_live:
            self._update("searching", tally.finished, tally.num_cells, note)
        elif self._is_due():
            self.log(f"{tally.finished:,} of {counted(tally.num_cells, 'cell')}, {note}")

    def close(self) -> None:
        """Takes the bars away."""
        if self._bars:
            self._bars.close()
            self._bars = None

    def _is_due(self) -> bool:
        """Whether a line is due; if so, this starts the wait for the next one."""
        if time.monotonic() - self._last_line < self._seconds_between_lines:
            return False
        self._last_line = time.monotonic()
        return True

    def _finish_epoch(self, name: str, epoch: int, num_epochs: int, note: str) -> None:
        """Sets a bar to whole epochs, in the unit that the bar counts."""
        total = max(self._totals.get(name, 0), num_epochs)
        self._update(name, total * epoch // num_epochs, total, f"epoch {epoch} of {num_epochs}, {note}")

    def _update(self, name: str, completed: int, total: int, note: str) -> None:
        name, note = printable(name, MOST_NAME), printable(note, MOST_LINE)
        self._totals[name] = total
        if self._bars is None:
            self._bars = _NotebookBars() if self._console.is_jupyter else _TerminalBars(self._console)
        self._bars.update(name, completed, total, note)


class _Bars(Protocol):
    """Bars by name, each with a note."""

    def update(self, name: str, completed: int, total: int, note: str) -> None: ...

    def close(self) -> None: ...


class _TerminalBars:
    def __init__(self, console: Console) -> None:
        self._progress = _NotedProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._progress.start()
        self._tasks: dict[str, TaskID] = {}

    def update(self, name: str, completed: int, total: int, note: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._tasks[name], completed=completed, total=total, note=note)

    def close(self) -> None:
        self._progress.stop()


class _NotebookBars:
    """Bars as one output of a notebook, replaced in place. rich's own need ipywidgets, and are empty without."""

    def __init__(self, seconds_between: float = 0.25) -> None:
        self._seconds_between = seconds_between
        self._lines: dict[str, tuple[int, int, str]] = {}
        self._output: Any = None
        self._last = 0.0

    def update(self, name: str, completed: int, total: int, note: str) -> None:
        self._lines[name] = completed, total, note
        if self._output is None or time.monotonic() - self._last >= self._seconds_between:
            self._show()

    def close(self) -> None:
        self._show()

    def _show(self) -> None:
        self._last = time.monotonic()
        if self._output is None:
            from IPython.display import display  # every notebook has it

            self._output = display(self, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._output.update(self)

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {done:,} of {total:,}, {note}" for name, (done, total, note) in self._lines.items())

    def _repr_html_(self) -> str:
        rows = (
            f'<tr><td style="text-align:left">{escape(name)}</td><td><progress value="{done}" max="{total}"></progress>'
            f'</td><td>{done:,}/{total:,}</td><td style="text-align:left">{escape(note)}</td></tr>'
            for name, (done, total, note) in self._lines.items()
        )
        return f"<table>{''.join(rows)}</table>"


class _NotedProgress(Progress):
    """Bars with a note below each, so that both fit a terminal of 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yields the bar and the note of each task."""
        for task in self.tasks:
            yield self.make_tasks_table([task])
            yield Padding(Text(task.fields["note"]), (0, 0, 0, 2))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
