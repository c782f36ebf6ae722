"""The command `sfi-ray init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import output_option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo


def init(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What to begin with: digits, torchvision, own_network or rounds.")
    ] = "digits",
    output: Annotated[Path | None, output_option("Folder to write into. By default the current one.")] = None,
) -> None:
    """Write a commented job file to begin with. No file is overwritten.

    The jobs attack small networks on handwritten digits, a network of torchvision, or a network of your own. The job
    'rounds' trains a network to reject what was found.
    """
    from sfi_ray.bundled import write_template

    with explaining():
        written = write_template(name, output or Path())
    for path in written:
        echo(f"wrote {path}")
    go = f"cd {shlex.quote(str(output))} && " if output else ""  # a job finds its code in the current folder
    echo(f"launch it with: {go}sfi-ray launch {written[0].name}")
