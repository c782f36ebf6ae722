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
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import and call the factories of classifiers that the run's record names. Whoever made the run chose "
        "them: look at that code first.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="Address of a running Ray cluster, such as 'auto' or 'host:6379'. By default RAY_ADDRESS is used where it "
        "is set; otherwise Ray is started on this machine.",
        show_default=False,
    ),
]
InProcess = Annotated[
    bool, typer.Option("--in-process", help="Run in this process, without Ray. The rows are the same.")
]
Actors = Annotated[
    int | None, typer.Option(min=1, help="Number of actors. By default as many as fit.", show_default=False)
]
