"""A page that lives: it is served on the loopback interface while its run, or its rounds, go on.

The server knows two paths, the page and the progress, and reads nothing but the run's folder.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

from sfi_ray.errors import USER_FACING_ERRORS, InputError
from sfi_ray.listing import has_nothing_yet, is_launched_at
from sfi_ray.report.accounts import accounts_of
from sfi_ray.report.rounds.page import render_rounds_page, trial_figures
from sfi_ray.report.runs import open_runs
from sfi_ray.report.site.page import render_page
from sfi_ray.report.site.template import page_template, site_file
from sfi_ray.rounds.experiment import Experiment, read_experiment
from sfi_ray.store.facts import read_facts
from sfi_ray.store.folder import RECORD, RunFolder
from sfi_ray.store.parts import list_parts
from sfi_ray.store.progress import Progress, RunState, read_progress
from sfi_ray.text import counted, printable, spell


class LivePage:
    """The page of a run or of rounds, rendered again after the folder has changed.

    Args:
        location: Folder or URI of the run. It need not exist yet: the page then waits for its launch.

    Raises:
        InputError: The folder exists, but holds no run, and no launch prepares one.
        StorageError: It cannot be read.
    """

    rest: ClassVar[float] = 4.0
    """How much longer than rendering the page it is left as it is, so that watching a run costs little."""

    def __init__(self, location: str) -> None:
        self._folder = RunFolder(location)
        self._lock = threading.Lock()
        self._page, self._mark, self._due = "", "", 0.0
        if not self._is_prepared() and not has_nothing_yet(location):
            read_facts(self._folder)  # says what is wrong

    @property
    def is_awaited(self) -> bool:
        """Whether no launch has made the folder yet."""
        return not self._folder.exists("")

    def page(self) -> str:
        """Returns the page in HTML; a page that is no longer the newest where a newer one would come too soon."""
        with self._lock:
            mark = self._newest_mark()
            if mark != self._mark and time.monotonic() >= self._due:
                began = time.monotonic()
                self._page, self._mark = self._render(mark), mark
                self._due = time.monotonic() + self.rest * (time.monotonic() - began)
            return self._page

    def progress(self) -> dict[str, Any]:
        """Returns a line on what the run does, the share of searched cells, and the mark of the newest page."""
        line, share = self._rounds_line() if self._is_rounds() else self._run_line(self._folder)
        return {"line": printable(line, 300), "share": share, "mark": self._newest_mark()}

    def _is_rounds(self) -> bool:
        return read_experiment(self._folder) is not None

    def _is_prepared(self) -> bool:
        return self._is_rounds() or self._folder.exists(RECORD)

    def _newest_mark(self) -> str:
        """Returns a digest of what the page shows."""
        if self._is_rounds():
            trials = Experiment(self._folder.location).trials()
            seen: Any = [(name, len(trial.rounds), len(trial.finals)) for name, trial in trials.items()]
        elif self._is_prepared():
            progress = read_progress(self._folder)
            parts = [(part.base_name, part.size) for part in list_parts(self._folder)]
            seen = (parts, progress and (progress.state, progress.is_alive))
        else:
            seen = "awaited" if self.is_awaited else "preparing"
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def _render(self, mark: str) -> str:
        if self._is_rounds():
            experiment = Experiment(self._folder.location)
            trials = [trial for trial in experiment.trials().values() if trial.rounds]
            figures = {trial.name: trial_figures(experiment, trial) for trial in trials}
            return render_rounds_page(experiment, figures, is_live=True, mark=mark)
        if not self._is_prepared():
            waiting = "The launch prepares its networks; no cell is searched yet."
            if self.is_awaited:
                waiting = "This run does not exist yet. The page waits for its launch."
            return _waiting_page(self._folder.location, mark, waiting)
        runs = open_runs([self._folder.location])
        return render_page(runs, [accounts_of(run.rows) for run in runs], is_live=True, mark=mark)

    def _rounds_line(self) -> tuple[str, float | None]:
        experiment = Experiment(self._folder.location)
        trials = experiment.trials().values()
        done, planned = sum(len(trial.rounds) for trial in trials), sum(trial.number for trial in trials)
        line = f"{done:,} of {counted(planned, 'round')}"
        for folder in experiment.runs():
            progress = read_progress(folder)
            if progress and progress.is_alive:
                name = "/".join(folder.location.rstrip("/").split("/")[-2:])
                return f"{line}. {name}: {_spoken(progress)}", done / max(planned, 1)
        return f"{line}{', training' if experiment.is_launched else ''}", done / max(planned, 1)

    def _run_line(self, folder: RunFolder) -> tuple[str, float | None]:
        progress = read_progress(folder)
        if self.is_awaited:
            return "waiting for the launch", None
        if progress is None or not progress.num_cells:
            is_launched = is_launched_at(folder.location)
            return "networks are trained or measured" if is_launched else "no driver is running", None
        return _spoken(progress), min(1.0, progress.finished / progress.num_cells)


def _spoken(progress: Progress) -> str:
    """Returns a driver's sign of life as a line."""
    line = f"{progress.finished:,} of {counted(progress.num_cells, 'cell')}, {progress.fooled:,} fooled"
    line += f", {progress.failed:,} failed" if progress.failed else ""
    if not progress.is_alive:
        state = "lost" if progress.state is RunState.RUNNING else progress.state.value
        return f"{line}. The run is {state}."
    left = "" if progress.seconds_left is None else f", {spell(progress.seconds_left)} left"
    rate = f"{progress.evaluations_per_second:,.0f} evaluations/s"
    return f"{line}, {rate}, {counted(progress.actors, 'actor')}{left}"


def _waiting_page(location: str, mark: str, waiting: str) -> str:
    return page_template("rounds.html").render(
        title=location,
        style=site_file("style.css"),
        program="\n".join(site_file(f"{script}.js") for script in ("elements", "live")),
        is_live=True,
        mark=mark,
        kind="waiting",
        waiting=waiting,
        trials=[],
        version="",
        attacks="",
    )


@contextmanager
def serving(page: LivePage, port: int = 0) -> Iterator[ThreadingHTTPServer]:
    """Opens a server of a page on 127.0.0.1; `serve_forever` of what it yields then answers.

    Args:
        page: The page.
        port: Its port; 0 takes a free one.

    Raises:
        InputError: The port cannot be had.
    """
    try:
        server = _Server(page, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot listen on 127.0.0.1:{port} ({reason}); give another --port, or none") from error
    with server:
        yield server


class _Server(ThreadingHTTPServer):
    """A server that gives its page to whoever asks for it under its own name."""

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers: dict[str, tuple[str, Callable[[], str]]] = {
            "/": ("text/html; charset=utf-8", page.page),
            "/progress": ("application/json", lambda: json.dumps(page.progress())),
            "/favicon.ico": ("image/x-icon", str),
        }
        # A page of another site whose name was turned to 127.0.0.1 sends that name: DNS rebinding.
        self.hosts = {f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost")}


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; all paths but those of the server are unknown."""

    server: _Server
    timeout = 30

    def do_GET(self) -> None:
        """Answers a GET request."""
        answer = self.server.answers.get(self.path.partition("?")[0])
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.FORBIDDEN, "text/plain", "wrong host\n")
        elif answer is None:
            self._send(HTTPStatus.NOT_FOUND, "text/plain", "not found\n")
        else:
            kind, content = answer
            try:
                text = content()
            except USER_FACING_ERRORS as error:
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", f"{printable(error)}\n")
            else:
                self._send(HTTPStatus.OK, kind, text)

    def _send(self, status: HTTPStatus, kind: str, text: str) -> None:
        content = text.encode()
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": "frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's
        """Prints nothing."""
