"""The command `sfi-ray theory`: from options to a model, what it guarantees, and what searches find."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sfi_ray.cli.exits import explaining
from sfi_ray.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfi_ray.attacks import AttackSettings
    from sfi_ray.data import DatasetInfo, DatasetSpec
    from sfi_ray.data.dataset import Split
    from sfi_ray.report import Curve
    from sfi_ray.theory import HiddenLayerModel, LinearModel, QuadraticModel
    from sfi_ray.types import Finding

_BACKGROUNDS = ("black", "white")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def theory(
    data: Annotated[
        str, typer.Option(help="Name of a data set of gray images, such as digits, mnist or fashion-mnist.")
    ] = "digits",
    path: Annotated[
        str | None,
        typer.Option(
            help="Folder of the data set's parquet files. By default it is looked for by name.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="linear|hidden|kernel",
            help="Model to fit: logistic regression (Theorem 1), a network with one hidden layer (Theorem 2), or a "
            "support vector machine with a polynomial kernel of degree 2 (Theorem 3).",
        ),
    ] = "linear",
    pair: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FIRST SECOND",
            help="Names of two classes: the one to be predicted, and the one it is told from. Give this or --against-rest.",
            show_default=False,
        ),
    ] = None,
    against_rest: Annotated[
        str | None,
        typer.Option(
            metavar="FIRST",
            help="Name of the class to be predicted, told from all others together. Give this or --pair.",
            show_default=False,
        ),
    ] = None,
    k: Annotated[
        str, typer.Option(help="Numbers of pixels that may be altered: 5, 1,2,5, or 1..50.", metavar="K")
    ] = "1..20",
    evaluations: Annotated[
        int, typer.Option(min=0, help="Images that each search classifies for each k and background; 0 searches nothing.")
    ] = 5000,
    hidden_units: Annotated[int, typer.Option(min=1, help="Units of the hidden layer of --model hidden.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit and of the searches.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the table as CSV and the plot as PNG.")
    ] = Path("theory"),
) -> None:
    """Show how sure a simple model can be made by k altered pixels: by theorem, and by search on the same model.

    A model of two classes is fitted to the data set's training images. For every k, the best of a black and a white
    background is shown: for a linear model the optimum, which nothing exceeds, and Theorem 1 as it is printed; for the
    others what Algorithms 1 and 2 guarantee, which a search may exceed. Beside it stands what `de` and `elites` find.
    """
    with explaining():
        _show(
            data=data,
            path=path,
            kind=model,
            first=pair[0] if pair else against_rest,
            second=pair[1] if pair else None,
            is_asked_once=(pair is None) != (against_rest is None),
            ks=_read_ks(k),
            evaluations=evaluations,
            hidden_units=hidden_units,
            seed=seed,
            output=output,
        )
