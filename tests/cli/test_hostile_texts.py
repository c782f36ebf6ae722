"""Names and messages that would drive a terminal, a spreadsheet or a page are shown as text, by every command."""

import base64
import csv
import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rich.console import Console
from typer.testing import CliRunner

import sfi_ray
from sfi_ray.attacks.base import failed
from sfi_ray.cli import app
from sfi_ray.cluster.console import ConsoleReporter
from sfi_ray.models import TrainingProgress, build
from sfi_ray.types import Background, Cell

# As many as a table has columns for.
NAMES = [
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\x9b2J\x00\x7f line\N{LINE SEPARATOR}separator",
    "\N{RIGHT-TO-LEFT OVERRIDE}desrever \N{LEFT-TO-RIGHT ISOLATE}isolated",
    "zero\N{ZERO WIDTH SPACE}width\N{ZERO WIDTH NO-BREAK SPACE}",
    "cat\r\nerror: all is lost",
    '=HYPERLINK("https://example.org","click")',
    "@SUM(1)",
    "+cmd|' /C calc'!A0",
    "[red]markup[/] [/nothing]",
    "</script><script>alert(1)</script>",
    "$\\frac{1}{$ \\input{secret} a|b`c*_d_ <b> ![x](https://example.org)",
    "../../" + "x" * 3000,
]
# What some of them are shown as.
SHOWN = ["\\x1b[31mred", "\\u202edesrever", "cat error: all is lost", "[red]markup[/] [/nothing]"]
JOB = f"""
name: hostile
dataset: {{name: "\\e[1m\\u202Edata", shape: [1, 8, 8], class_names: {json.dumps(NAMES)}}}
classifiers: [{{name: mlp, weights: mlp.safetensors, mean: [0.5], std: [0.5]}}]
backgrounds: [black]
k: 1
attack: {{kind: de, population_size: 5, generations: 1}}
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the job and the run that its launch left."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        network = build("mlp", input_shape=(1, 8, 8), num_classes=len(NAMES))
        safetensors.torch.save_file(network.state_dict(), "mlp.safetensors")
        Path("job.yaml").write_text(JOB)
        done = call("launch", "job.yaml", "--in-process")
    assert done.exit_code == 0, done.output
    (folder / "launched.txt").write_text(done.stdout + done.stderr)
    return folder


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)


def assert_readable(text, what=""):
    for number, line in enumerate(text.split("\n"), 1):
        assert line.isprintable(), f"{what}:{number}: {line[:300]!a}"


def test_a_launch_prints_names_as_text(place):
    text = (place / "launched.txt").read_text()
    assert_readable(text)
    assert "of 12 cells fooled" in text
    assert "through mlp (\\x1b[1m\\u202edata, de)" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "runs/hostile"],
        ["plan", "job.yaml"],
        ["verify", "runs/hostile"],
        ["report", "runs/hostile", "--output", "said"],
        ["compare", "runs/hostile", "runs/hostile", "--by", "class"],
        ["export", "runs/hostile", "--output", "exported-here", "--overwrite"],
        ["transfer", "runs/hostile", "--output", "transferred-here", "--in-process", "--overwrite"],
        ["compact", "runs/hostile"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_prints_names_as_text(arguments):
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    assert_readable(done.stdout, "stdout")
    assert_readable(done.stderr, "stderr")
    assert "x" * 200 not in done.output
    if "class" in arguments:
        for name in SHOWN:
            assert name in done.stdout


def written(folder, *suffixes):
    files = [path for path in Path(folder).rglob("*") if path.suffix in suffixes]
    assert files
    return files


def test_the_files_of_a_report_hold_text_only():
    for path in written("runs/hostile/report", ".csv", ".md", ".tex"):
        assert_readable(path.read_text("utf-8"), path.name)
    tex = "".join(path.read_text() for path in written("runs/hostile/report", ".tex"))
    assert "\\input" not in tex
    assert "\\frac" not in tex


@pytest.mark.parametrize("kind", ["png", "numpy", "parquet"])
def test_an_export_holds_text_only(kind, tmp_path):
    folder = tmp_path / kind
    assert call("export", "runs/hostile", "--output", folder, "--format", kind).exit_code == 0
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    assert all(re.fullmatch(r"[a-z0-9./]+", name) for name in names if name != "README.md")
    assert_readable((folder / "README.md").read_text("utf-8"), "README.md")
    if kind != "parquet":
        assert_cells_are_no_formulas((folder / "metadata.csv").read_text("utf-8"))


def test_a_comparison_holds_text_only(tmp_path):
    done = call("compare", "runs/hostile", "runs/hostile", "--by", "class", "--output", tmp_path / "compared")
    assert done.exit_code == 0, done.output
    for path in written(tmp_path / "compared", ".csv", ".md"):
        assert_readable(path.read_text("utf-8"), path.name)
    for name in ("groups.csv", "cells.csv"):
        assert_cells_are_no_formulas((tmp_path / "compared" / name).read_text("utf-8"))


def assert_cells_are_no_formulas(text):
    assert_readable(text)
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    assert any(cell.startswith("'@SUM") for cell in cells)
    assert any(cell.startswith("'+cmd") for cell in cells)
    assert not [cell for cell in cells if cell.lstrip().startswith(("=", "@"))]
    assert all(cell.isdigit() or not cell.startswith("+") for cell in cells)


def test_a_page_holds_names_as_text_only():
    page = Path("runs/hostile/report/index.html").read_text("utf-8")
    assert "<script>alert(1)" not in page
    assert_readable(re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))  # libraries hold what they hold
    body = gzip.decompress(base64.b64decode(re.search(r'id="data">([^<]*)<', page)[1]))
    (length,) = struct.unpack_from("<Q", body)
    packed = json.loads(body[8 : 8 + length])
    names = packed["runs"][0]["class_names"]
    assert len(names) == len(NAMES)
    assert all(name.isprintable() for name in names)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"k: 1": 'k: 1\ntarget_classes: ["\\e[31mnone\\u202E"]'}, "\\x1b[31mnone\\u202e"),
        ({"k: 1": 'k: 1\n"\\e[31mkey\\u202E": 3'}, "\\x1b[31mkey\\u202e"),
        ({"k: 1": f"k: 1\nnope: {'x' * 100_000}"}, "nope"),
        ({"k: 1": f'k: "{"x" * 100_000}"'}, "xxx"),
        ({"k: 1": 'k: 1\ntarget_classes: ["a\\nerror: none\\nb"]'}, "a error: none b"),
        ({"mlp.safetensors": '"\\e[31m.safetensors"'}, "\\x1b[31m.safetensors"),
        ({'"\\e[1m\\u202Edata", shape: [1, 8, 8],': '"\\e[1m\\u202Edata", path: "\\u202Enowhere",'}, "path"),
    ],
)
def test_a_wrong_job_is_refused_in_short_printable_lines(change, found, tmp_path):
    text = JOB
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    text = text.replace("name: hostile", "name: other")
    (tmp_path / "job.yaml").write_text(text)
    done = call("launch", tmp_path / "job.yaml", "--in-process")
    assert done.exit_code == 2, done.output
    assert_readable(done.stderr)
    assert found in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 600
    assert len(done.stderr.splitlines()) == 1
    assert not done.stdout


@pytest.mark.parametrize("location", ["half\ud800", "runs/none\0"])
def test_what_no_path_can_be_called_is_refused(location):
    done = call("status", location)
    assert done.exit_code == 2
    assert "is not a path" in done.stderr
    assert_readable(done.stderr)


@pytest.mark.parametrize("arguments", [["\x1b[31mnone"], ["status", "--\u202enone"], ["--\x1b[31m"], ["status"]])
def test_a_wrong_command_line_is_printable(arguments):
    done = call(*arguments)
    assert done.exit_code == 2
    assert_readable(done.stderr)


def test_a_location_is_printed_as_text():
    done = call("status", "no\x1b[31mrun\nerror: here" + "/x" * 5000)
    assert done.exit_code == 2
    assert_readable(done.stderr)
    assert len(done.stderr.splitlines()) == 1
    assert len(done.stderr) <= 601


def test_what_a_network_says_is_stored_short_and_printable():
    cell = Cell(0, "0" * 32, "mlp", Background("black", (0,)), 0, "a", 1, 0, 0)
    finding = failed(cell, "RuntimeError: \x1b[31mwild\n\u202e" + "x" * 100_000 + " \ud800")
    assert finding.error.startswith("RuntimeError: \\x1b[31mwild \\u202exxx")
    assert finding.error.endswith("x \\ud800")
    assert len(finding.error) <= 1000


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_reporter_shows_names_as_text(is_terminal):
    out = io.StringIO()
    shown = ConsoleReporter(Console(file=out, force_terminal=is_terminal, color_system=None, width=300))
    shown.log("\x1b]0;title\x07[red]said[/]\nerror: none " + "x" * 100_000)
    progress = TrainingProgress(
        epoch=1,
        epochs=2,
        num_seen=1,
        num_images=10,
        loss=1.0,
        train_accuracy=0.5,
        test_accuracy=None,
        images_per_second=1.0,
    )
    shown.training("[/][red]net\u202e\x1b[5m", progress)
    shown.trained("[/][red]net\u202e\x1b[5m", 2, 2, 0.5)
    shown.close()
    text = out.getvalue()
    assert "\x1b]0;" not in text
    assert "\u202e" not in text
    assert "\x1b[5m" not in text
    assert "\\x1b]0;title\\x07[red]said[/] error: none xxx" in text
    assert "[/][red]net\\u202e\\x1b[5m" in text
    assert "x" * 700 not in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "runs/hostile", "runs/hostile"],
        ["report", "runs/hostile", "--output", "wide-猫-ä"],
        ["status", "猫"],
    ],
    ids=["compare", "report", "status"],
)
def test_output_that_cannot_hold_a_character_gets_an_escape(arguments):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "sfi_ray", *arguments]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=300, check=False)
    assert done.returncode == (2 if arguments[0] == "status" else 0), done.stderr[-2000:]
    assert b"Traceback" not in done.stderr
    (done.stdout + done.stderr).decode("ascii")
    assert b"UnicodeEncodeError" not in done.stderr


def test_rows_keep_names_as_they_are(place):
    run = sfi_ray.open_run(place / "runs" / "hostile")
    assert run.table(["target_name"])["target_name"].to_pylist() == NAMES
