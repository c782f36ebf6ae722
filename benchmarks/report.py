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


def write_report(name, description, rows, *, command):
    """Writes ``<date>-<name>-<hardware>.md`` beside this file and prints it."""
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    header = list(rows[0])
    lines = [
        f"# {name.replace('_', ' ').capitalize()}, {today}, {hardware().replace('-', ' ')}",
        "",
        description.strip(),
        "",
        f"Made by `{command}` with torch {torch.__version__}.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *(
            "| " + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values()) + " |"
            for row in rows
        ),
    ]
    path = Path(__file__).parent / f"{today}-{name}-{hardware()}.md"
    path.write_text("\n".join(lines) + "\n")
    print(path.read_text())
