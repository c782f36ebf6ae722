"""The commands `sfi-ray export` and `sfi-ray compact`, which write the rows of a run anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import Overwrite, RunLocation, output_option
from sfi_ray.cli.exits import explaining, naming_broken_parts
from sfi_ray.cli.printing import echo
from sfi_ray.text import counted


def export(
    run: RunLocation,
    output: Annotated[Path, output_option("Folder to make; it appears whole or not at all.")],
    kind: Annotated[str, typer.Option("--format", help="Format of the images.", metavar="png|numpy|parquet")] = "png",
    fooled: Annotated[bool, typer.Option("--fooled", help="Only images that reached the run's threshold.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write the images of a run as files for other programs.

    The data of each image lies beside it. A part file that cannot be read is named and left out.
    """
    from sfi_ray.review.export import export_run
    from sfi_ray.store.run import open_run

    with explaining("stopped; nothing was exported"):
        done = export_run(open_run(run), output, kind, fooled=fooled, overwrite=overwrite)
    echo(f"{counted(done.num_images, 'image')} in {output}")
    naming_broken_parts(done.broken)


def compact(run: RunLocation) -> None:
    """Merge the many part files of a run into few, faster ones.

    The rows stay the same. An interrupted compaction loses nothing; the next one, or the next launch, finishes it. The
    command refuses a run to which a launch is writing.
    """
    from sfi_ray.store.compaction import compact as compact_parts
    from sfi_ray.store.run import open_run

    with explaining():
        opened = open_run(run)
        done = compact_parts(opened.folder, bounds=opened.bounds)
    echo(
        f"{counted(done.files_before, 'part file')} of {done.bytes_before / 2**20:,.1f} MiB became "
        f"{done.files_after:,} of {done.bytes_after / 2**20:,.1f} MiB"
    )
