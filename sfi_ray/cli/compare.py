"""The command `sfi-ray compare`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import AsJson, Overwrite, RunLocation, output_option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_json, print_table


def compare(
    run_a: RunLocation,
    run_b: RunLocation,
    by: Annotated[
        str,
        typer.Option(
            help="Axes of the groups, separated by commas: classifier, background, k, class.", metavar="AXIS,..."
        ),
    ] = "classifier,background,k",
    output: Annotated[
        Path | None, output_option("Folder to make with groups.csv, groups.md and cells.csv, which has every pair.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs cell by cell.

    It compares confidences and fooled cells, and tests the significance of the differences. Cells match by classifier,
    background, class or natural image, k and replicate.
    """
    from sfi_ray.review.compare import cells_csv, compare_pairs, comparison_table
    from sfi_ray.review.pairing import pair_runs
    from sfi_ray.store.run import open_run
    from sfi_ray.store.whole_folder import whole_folder

    axes = [axis.strip() for axis in by.split(",") if axis.strip()]
    with explaining():
        pairs = pair_runs(open_run(run_a), open_run(run_b))
        compared = compare_pairs(pairs, axes)
        table = comparison_table(compared, pairs, axes, (run_a, run_b))
        if output is not None:
            with whole_folder(output, marker="groups.csv", overwrite=overwrite) as folder:
                for name, text in {
                    "groups.csv": table.to_csv(),
                    "groups.md": table.to_markdown(),
                    "cells.csv": cells_csv(pairs),
                }.items():
                    (folder / name).write_text(text, "utf-8")
    if as_json:
        groups = [{**dataclasses.asdict(one), "place": dict(zip(axes, one.place, strict=False))} for one in compared]
        print_json({"runs": [run_a, run_b], "all": groups[0], "groups": groups[1:]})
        return
    print_table(table)
    if output is not None:
        echo(f"tables: {output}")
