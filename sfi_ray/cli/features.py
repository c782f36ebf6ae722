"""The command `sfi-ray features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import AllowCode, Device, Overwrite, RunLocation, number, option, output_option
from sfi_ray.cli.exits import explaining, naming_broken_parts
from sfi_ray.cli.printing import echo, fits_on_screen, print_table

FeaturesOutput = Annotated[Path, output_option("Folder to make with figures, tables and rows.")]
Layers = Annotated[
    list[str] | None,
    option(
        "Name of a layer or block of the network, or second_to_last for the input of its last layer with weights. May "
        "be given several times; a wrong name lists the valid ones. By default second_to_last.",
        metavar="LAYER",
    ),
]
Classifiers = Annotated[
    list[str] | None,
    option("A classifier of the run; may be given several times. By default all of them.", metavar="NAME"),
]
NumNatural = Annotated[int, typer.Option(min=0, help="Natural images of each class; 0 takes all.", metavar="NUMBER")]
Split = Annotated[str, typer.Option(metavar="test|train", help="Split of the natural images.")]
NumSfis = Annotated[int, typer.Option(min=0, help="SFIs of each class, by confidence; 0 takes all.", metavar="NUMBER")]
Backgrounds = Annotated[
    list[str] | None,
    option("Only SFIs of this background; may be given several times. By default all.", metavar="COLOUR"),
]
Ks = Annotated[list[int] | None, number("Only SFIs of this k; may be given several times. By default all.", "--k")]
OnlyFooled = Annotated[bool, typer.Option("--fooled", help="Only SFIs that reached the run's threshold.")]
NumNeighbours = Annotated[int, typer.Option(min=1, help="Number of nearest natural images to count.", metavar="NUMBER")]


def features(
    run: RunLocation,
    output: FeaturesOutput,
    layer: Layers = None,
    classifier: Classifiers = None,
    natural: NumNatural = 50,
    split: Split = "test",
    sfis: NumSfis = 50,
    background: Backgrounds = None,
    k: Ks = None,
    fooled: OnlyFooled = False,
    neighbours: NumNeighbours = 10,
    device: Device = "auto",
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
) -> None:
    """Compare features of natural images, SFIs and single colours.

    They are those of the run's networks at chosen layers (Figure 7 of the paper). A figure for each layer shows their
    principal components. A table shows the share of each SFI's nearest natural images that is of its target class,
    beside the share expected by chance. A part file that cannot be read is named and left out.
    """
    from sfi_ray.models.features import SECOND_TO_LAST
    from sfi_ray.report.sheets.feature_map import feature_map
    from sfi_ray.review.features import closeness_table, compare_features
    from sfi_ray.review.layer_features import FeatureSettings
    from sfi_ray.store.run import open_run

    if split not in ("test", "train"):
        raise typer.BadParameter("is test or train", param_hint="--split")
    settings = FeatureSettings(
        layers=tuple(dict.fromkeys(layer or [SECOND_TO_LAST])),
        classifiers=tuple(classifier or ()),
        split="train" if split == "train" else "test",
        num_natural=natural,
        num_sfis=sfis,
        num_neighbours=neighbours,
        backgrounds=tuple(background or ()),
        ks=tuple(k or ()),
        only_fooled=fooled,
    )
    with explaining("stopped; nothing was written"):
        done = compare_features(
            open_run(run), settings, output, feature_map, device=device, overwrite=overwrite, allow_code=allow_code
        )
    is_short = fits_on_screen(len({one.class_name for one in done.closeness}))
    shown = [one for one in done.closeness if is_short or one.class_index is None]
    print_table(closeness_table(shown, settings))
    echo(f"figures, tables and rows: {output}")
    naming_broken_parts(done.broken)
