"""Writes a benchmark's rows as a dated Markdown table that names the hardware by what it is."""

import datetime
import os
from pathlib import Path

import torch


def hardware():
    """Returns cores and instruction set, or the GPU, as a short name."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name().replace(" ", "-").lower()
    return f"{os.cpu_count()}-cores-{torch.backends.cpu.get_cpu_capability().lower()}"


def today():
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def report_path(name, suffix=".md"):
    """Returns ``<date>-<name>-<hardware>`` with a suffix, beside this file."""
    return Path(__file__).parent / f"{today()}-{name}-{hardware()}{suffix}"


def table(rows):
    """Returns the lines of a Markdown table."""
    header = list(rows[0])
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *(
            "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
            for row in rows
        ),
    ]


def write_report(name, description, rows, *, command, sections=()):
    """Writes ``<date>-<name>-<hardware>.md`` beside this file and prints it.

    Args:
        name: Of the benchmark.
        description: What was measured.
        rows: The first table.
        command: What made it.
        sections: Heading, text and rows of further tables; rows may be none.
    """
    lines = [
        f"# {name.replace('_', ' ').capitalize()}, {today()}, {hardware().replace('-', ' ')}",
        "",
        description.strip(),
        "",
        f"Made by `{command}` with torch {torch.__version__}.",
        "",
        *table(rows),
    ]
    for heading, text, more in sections:
        lines += ["", f"## {heading}", "", text.strip()]
        lines += ["", *table(more)] if more else []
    path = report_path(name)
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())
