"""The command `sfi-ray verify`."""

from __future__ import annotations

from typing import Annotated

import typer

from sfi_ray.cli.arguments import AllowCode, Device, RunLocation
from sfi_ray.cli.exits import EXIT_DOES_NOT_HOLD, explaining
from sfi_ray.cli.printing import echo

_MAX_LINES = 20


def verify(
    run: RunLocation,
    device: Device = "auto",
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="How far a probability may lie from the stored one. By default 0.0001: other processors and GPUs sum "
            "float32 in another order.",
            show_default=False,
            min=0.0,
        ),
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Check a run from its folder alone: every row, and every image re-scored with the classifiers kept there.

    The exit code is 0 when everything that is there holds and 4 when something does not; that is then named.
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
    rows = f"{found.num_rows:,} row{'s' * (found.num_rows != 1)}"
    echo(
        f"{rows}: {found.num_scored:,} images re-scored, {found.num_failed:,} of failed cells, "
        f"{found.num_doubled:,} cells written twice, {found.num_missing:,} of {found.num_cells:,} cells without a row"
    )
    echo(f"largest difference: {found.largest_difference:.2g}, allowed {found.tolerance:g}")
    if found.holds:
        echo("everything holds")
        return
    for fault in found.faults[:_MAX_LINES]:
        echo(f"{fault.place}: {fault.text}", err=True)
    if found.num_faults > _MAX_LINES:
        echo(f"and {found.num_faults - _MAX_LINES:,} more faults", err=True)
    echo(f"{found.num_faults:,} fault{'s' * (found.num_faults != 1)}", err=True)
    raise typer.Exit(EXIT_DOES_NOT_HOLD)
