"""The command `sfi-ray verify`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from sfi_ray.cli.arguments import AllowCode, AsJson, Device, RunLocation, option
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, print_json
from sfi_ray.text import counted


def verify(
    run: RunLocation,
    device: Device = "auto",
    tolerance: Annotated[
        float | None,
        option(
            "Largest allowed difference between a probability and the stored one. By default 0.0001, since other "
            "processors and GPUs sum float32 in another order.",
            metavar="NUMBER",
            min=0.0,
        ),
    ] = None,
    allow_code: AllowCode = False,
    as_json: AsJson = False,
) -> None:
    """Check a run from its folder alone: every row and every image.

    The classifiers kept there re-score the images. The command names each fault.
    """
    from sfi_ray.review.verify import TOLERANCE, verify_run
    from sfi_ray.store.run import open_run

    with explaining():
        found = verify_run(
            open_run(run),
            device=device,
            tolerance=TOLERANCE if tolerance is None else tolerance,
            allow_code=allow_code,
        )
    if as_json:
        print_json({"run": run, "holds": found.holds, **dataclasses.asdict(found)})
        if not found.holds:
            raise typer.Exit(ExitCode.DOES_NOT_HOLD)
        return
    rows = counted(found.num_rows, "row")
    echo(
        f"{rows}: {counted(found.num_scored, 'image')} re-scored, {found.num_failed:,} of failed cells, "
        f"{counted(found.num_doubled, 'cell')} written twice, {found.num_missing:,} of "
        f"{counted(found.num_cells, 'cell')} without a row"
    )
    echo(f"largest difference: {found.largest_difference:.2g}, allowed {found.tolerance:g}")
    if found.holds:
        echo("everything holds")
        return
    most_lines = 20
    for fault in found.faults[:most_lines]:
        echo(f"{fault.place}: {fault.text}", err=True)
    if found.num_faults > most_lines:
        echo(f"and {counted(found.num_faults - most_lines, 'more fault')}", err=True)
    echo(counted(found.num_faults, "fault"), err=True)
    raise typer.Exit(ExitCode.DOES_NOT_HOLD)
