"""The command `sfi-ray transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import (
    Actors,
    Address,
    AllowCode,
    Device,
    InProcess,
    Overwrite,
    RunLocation,
    option,
    output_option,
)
from sfi_ray.cli.exits import explaining, naming_broken_parts
from sfi_ray.cli.printing import echo, print_table

TransferOutput = Annotated[Path, output_option("Folder to make with the rows and the tables.")]
To = Annotated[
    list[str] | None,
    option(
        "A classifier that re-scores: one of the run by name, a network of the zoo, a .pt2 file, "
        "package.module:callable, or a job's entry in braces, such as '{torchvision: resnet50, weights: DEFAULT}'. May "
        "be given several times. By default all classifiers of the run.",
        metavar="CLASSIFIER",
    ),
]
Threshold = Annotated[float, typer.Option(help="Confidence from which an image fools, in (0, 1].", metavar="NUMBER")]
OnlyFooled = Annotated[bool, typer.Option("--fooled", help="Only images that fool their source.")]


def transfer(
    run: RunLocation,
    output: TransferOutput,
    to: To = None,
    threshold: Threshold = 0.9,
    fooled: OnlyFooled = False,
    device: Device = "auto",
    actors: Actors = None,
    address: Address = None,
    in_process: InProcess = False,
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
) -> None:
    """Re-score the images of a run with other classifiers.

    It counts the images that fool both (Table 18 of the paper). A part file that cannot be read is named and left out.
    """
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.transfer import transfer as start
    from sfi_ray.review.transfer import matrix_table
    from sfi_ray.store.run import open_run

    with explaining("stopped; nothing was written"):
        done = start(
            open_run(run),
            to or [],
            output,
            threshold=threshold,
            only_fooled=fooled,
            device=device,
            actors=actors,
            address=address,
            in_process=in_process,
            overwrite=overwrite,
            allow_code=allow_code,
            reporter=ConsoleReporter(),
        )
    print_table(matrix_table(done.counts, threshold))
    echo(f"rows and tables: {output}")
    naming_broken_parts(done.broken)
