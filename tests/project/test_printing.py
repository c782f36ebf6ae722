"""What others wrote is shown through few places, each of which makes it printable; nothing goes past them."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sfi_ray"

# What shows text, and the only modules that call it.
SINKS = {
    "print": {"models/tuning/compile_process.py"},  # JSON, for the process that started it
    "typer.echo": set(),
    "typer.secho": set(),
    "Console": {"cli/printing.py", "cluster/console.py", "cluster/rounds/on_ray.py"},
    "sys.stdout.write": set(),
    "sys.stderr.write": set(),
    "logging.basicConfig": {"cli/app.py"},
    "csv.writer": {"csv_text.py"},
    "csv.DictWriter": set(),
    "jinja2.Environment": {"report/site/template.py"},
}


def calls(source):
    """Dotted names of all that a source calls, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def bypasses(name, source):
    return [f"{name}:{line}: {what}" for line, what in calls(source) if name not in SINKS.get(what, {name})]


def test_nothing_is_shown_past_the_sinks():
    sources = {path.relative_to(PACKAGE).as_posix(): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
    assert sources
    assert [fault for name, source in sources.items() for fault in bypasses(name, source)] == []


@pytest.mark.parametrize(
    ("name", "source", "is_fault"),
    [
        ("cli/verify.py", "typer.echo(error)", True),
        ("cli/printing.py", "Console()", False),
        ("report/tables.py", "writer = csv.writer(out)", True),
        ("report/tables.py", "rows = csv.DictReader(out)", False),
        ("review/compare.py", "def f():\n    print(name)", True),
    ],
)
def test_a_call_past_the_sinks_is_found(name, source, is_fault):
    assert bool(bypasses(name, source)) is is_fault
