"""Arguments that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

RunLocation = Annotated[
    str,
    typer.Argument(metavar="RUN", help="Folder or URI of the run: <output>/<name> of its job.", show_default=False),
]
Device = Annotated[
    str, typer.Option(help="Device of the classifiers; auto takes a GPU if there is one.", metavar="auto|cpu|cuda")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output of this command.")]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import and call the classifier factories that the run's record names. The author of the run chose them: "
        "read that code first.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster, such as 'auto' or 'host:6379'. By default RAY_ADDRESS if set; "
        "otherwise Ray starts on this machine.",
        show_default=False,
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run in this process, without Ray. The rows are the same.")
]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Number of actors. By default as many as fit.", show_default=False)
]
