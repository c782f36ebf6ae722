"""The command `sfi-ray features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import AllowCode, Device, Overwrite, RunLocation
from sfi_ray.cli.exits import explaining, naming_broken_parts
from sfi_ray.cli.printing import echo, print_table

_LISTED_CLASSES = 20


def features(
    run: RunLocation,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to make with figures, tables and rows.", show_default=False)
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LAYER",
            help="A layer or block of the network by its name, or second_to_last, what enters its last layer with "
            "weights; may be given several times. A wrong name lists those there are. By default second_to_last.",
            show_default=False,
        ),
    ] = None,
    classifier: Annotated[
        list[str] | None,
        typer.Option(
            help="A classifier of the run; may be given several times. By default all of them.", show_default=False
        ),
    ] = None,
    natural: Annotated[int, typer.Option(min=0, help="Natural images of each class; 0 takes all.")] = 50,
    split: Annotated[str, typer.Option(metavar="test|train", help="Split that natural images are from.")] = "test",
    sfis: Annotated[
        int, typer.Option(min=0, help="SFIs of each class, those with the highest confidence; 0 takes all.")
    ] = 50,
    background: Annotated[
        list[str] | None,
        typer.Option(
            help="Only SFIs of this background; may be given several times. By default all.", show_default=False
        ),
    ] = None,
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k", help="Only SFIs of this k; may be given several times. By default all.", show_default=False
        ),
    ] = None,
    fooled: Annotated[bool, typer.Option("--fooled", help="Only SFIs that reached the run's threshold.")] = False,
    neighbours: Annotated[int, typer.Option(min=1, help="Nearest natural images that are counted.")] = 10,
    device: Device = "auto",
    overwrite: Overwrite = False,
    allow_code: AllowCode = False,
) -> None:
    """Compare features of natural images, SFIs and single colours at layers of the run's networks (Figure 7).

    A figure for each layer shows their principal components; a table says which share of each SFI's nearest natural
    images is of its target class, and which would be by chance. The exit code is 4 when a part file could not be read;
    it is named and left out.
    """
    from sfi_ray.models.features import SECOND_TO_LAST
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
            open_run(run), settings, output, device=device, overwrite=overwrite, allow_code=allow_code
        )
    is_short = len({one.class_name for one in done.closeness}) <= _LISTED_CLASSES
    shown = [one for one in done.closeness if is_short or one.class_index is None]
    print_table(closeness_table(shown, settings))
    echo(f"figures, tables and rows: {output}")
    naming_broken_parts(done.broken)
