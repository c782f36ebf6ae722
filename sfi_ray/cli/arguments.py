"""Arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

RunLocation = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Folder or URI of the run: <output>/<name> of its job.", show_default=False),
]
Device = Annotated[
    str, typer.Option(help="Where classifiers compute: auto takes a GPU where there is one.", metavar="auto|cpu|cuda")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what this command has written there before.")]
