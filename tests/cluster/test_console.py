"""What a training shows, on a terminal and where there is none."""

import io
import sys
import types
from types import SimpleNamespace

import pytest
from rich.console import Console

from sfi_ray.cluster import console as console_module
from sfi_ray.cluster.console import ConsoleReporter
from sfi_ray.cluster.driver import Tally
from sfi_ray.cluster.ray.session import waiting_for
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.models import TrainingProgress


def progress(epoch=2, num_seen=640, held_out=0.8):
    return TrainingProgress(
        epoch=epoch,
        epochs=4,
        num_seen=num_seen,
        num_images=1000,
        loss=0.51234,
        train_accuracy=0.876,
        test_accuracy=held_out,
        images_per_second=100.0,
    )


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    made = Clock()
    monkeypatch.setattr(console_module, "time", made)
    return made


def reporter(is_terminal=False):
    out = io.StringIO()
    return ConsoleReporter(Console(file=out, force_terminal=is_terminal, width=200)), out


def test_without_a_terminal_there_is_a_line_now_and_then(clock):
    shown, out = reporter()
    for second in range(40):
        clock.now = second
        shown.training("cnn", progress(num_seen=10 * second + 10))
    shown.close()
    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == (
        "training cnn: epoch 2 of 4, loss 0.512, accuracy 87.6%, held-out accuracy 80.0%, 100 images/s, 28 s left"
    )


def test_the_last_epoch_always_has_a_line(clock):
    shown, out = reporter()
    for epoch in range(1, 5):
        shown.trained("cnn", epoch, 4, 0.9)
    assert out.getvalue() == "trained cnn in 4 epochs: held-out accuracy 90.0%\n"


def test_nothing_is_said_of_held_out_images_before_they_were_seen(clock):
    shown, out = reporter()
    clock.now = 20
    shown.training("cnn", progress(epoch=1, held_out=None))
    assert "held-out" not in out.getvalue()


def test_a_terminal_has_a_bar_over_all_images_of_all_epochs():
    shown, out = reporter(is_terminal=True)
    shown.training("cnn", progress())
    shown.trained("cnn", 2, 4, 0.9)
    shown.training("cnn", progress(epoch=3, num_seen=500))
    shown.close()
    text = out.getvalue()
    assert "2500/4000" in text
    assert "epoch 3 of 4" in text
    assert "100 images/s" in text


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("console", "is_shown"),
    [
        ({"file": Terminal()}, True),
        ({"file": io.StringIO()}, False),
        ({"file": io.StringIO(), "force_terminal": True}, False),  # as FORCE_COLOR makes it, which logs are kept of
        ({"file": io.StringIO(), "force_jupyter": True}, False),  # a notebook is saved with what it showed
    ],
)
def test_the_token_of_the_dashboard_is_shown_on_a_terminal_only(monkeypatch, console, is_shown):
    told, shown = [], ConsoleReporter(Console(**console))
    monkeypatch.setattr(shown._lines, "print", lambda text, **options: told.append(text))
    shown.dashboard("http://127.0.0.1:8265", "secret")
    assert told[0].startswith("Ray dashboard: http://127.0.0.1:8265 (")
    assert ("secret" in told[0]) == is_shown


def test_a_reporter_of_ones_own_hears_of_the_dashboard_without_its_token():
    told = []

    class Own(Reporter):
        def log(self, text):
            told.append(text)

    Own().dashboard("http://127.0.0.1:8265", "secret")
    assert told == ["Ray dashboard: http://127.0.0.1:8265"]


@pytest.fixture
def notebook(monkeypatch):
    """What a notebook without ipywidgets shows: its outputs, each with all that replaced it."""
    outputs = []

    class Handle(list):
        def update(self, content):
            self.append(html_of(content))

    def html_of(content):
        if hasattr(content, "_repr_html_"):
            return content._repr_html_()
        return content._repr_mimebundle_((), ())["text/html"]  # of rich

    def display(*contents, display_id=False):
        handle = Handle(map(html_of, contents))
        outputs.append(handle)
        return handle if display_id else None

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return outputs


def test_a_notebook_without_widgets_has_bars_that_are_replaced_in_place(notebook, clock):
    shown = ConsoleReporter(Console(force_jupyter=True))
    for second in range(1, 5):
        clock.now = second
        shown.training("<cnn>", progress(num_seen=100 * second))
    clock.now = 4.1
    shown.trained("<cnn>", 2, 4, 0.9)
    shown.progressed(Tally(num_cells=90, finished=7, fooled=3, workers=2), 61.0)
    shown.close()
    (bars,) = notebook
    assert len(bars) == 5, "the two updates within a tenth of a second are shown together, at the end"
    assert '<progress value="1100" max="4000">' in bars[0]
    assert '<progress value="2000" max="4000">' in bars[-1]
    assert '<progress value="7" max="90">' in bars[-1]
    assert "3 fooled" in bars[-1]
    assert "1 min 01 s left" in bars[-1]
    assert "&lt;cnn&gt;" in bars[-1]


def test_lines_of_a_log_are_plain_text_beside_the_bars(notebook, capsys):
    shown = ConsoleReporter(Console(force_jupyter=True))
    shown.training("cnn", progress())
    shown.log("a line")
    shown.close()
    (bars,) = notebook
    assert "progress" in bars[0]
    assert capsys.readouterr().out == "a line\n"


def test_a_bar_and_its_note_fit_80_columns():
    out = io.StringIO()
    shown = ConsoleReporter(Console(file=out, force_terminal=True, color_system=None, width=80))
    shown.progressed(Tally(90, finished=30, fooled=25, evaluations_per_second=61_220, workers=16), seconds_left=5000)
    shown.close()
    assert "searching" in out.getvalue()
    assert "\n  25 fooled, 61,220 evaluations/s, 16 actors, 1 h 23 min left" in out.getvalue()  # on a line of its own


def test_a_search_without_actors_says_what_it_waits_for(clock):
    shown, out = reporter()
    clock.now = 20
    shown.progressed(Tally(num_cells=90), None)
    clock.now = 40
    shown.progressed(Tally(num_cells=90, finished=90, fooled=3), None)
    assert out.getvalue().splitlines() == [
        "0 of 90 cells, 0 fooled, waiting for actors",
        "90 of 90 cells, 3 fooled, 0 evaluations/s, 0 actors",
    ]


def test_a_launch_over_ray_says_what_it_waits_for(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    assert waiting_for(None) == waiting_for("local") == "Starting Ray on this machine ..."
    assert waiting_for("head:6379") == "Connecting to Ray at 'head:6379' ..."
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert waiting_for(None) == "Connecting to Ray at 'auto' ..."
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))
    assert waiting_for(None) is None
