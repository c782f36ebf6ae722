"""The command `sfi-ray theory`: the guarantees of a simple model, and the results of searches on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from sfi_ray.cli.arguments import option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_facts, show
from sfi_ray.errors import InputError
from sfi_ray.text import safe_name

Data = Annotated[
    str,
    typer.Option(help="Name of a data set of gray images, such as digits, mnist or fashion-mnist.", metavar="DATASET"),
]
DataFolder = Annotated[
    str | None,
    option("Folder of the data set's parquet files. By default it is looked for by name.", metavar="FOLDER"),
]
Model = Annotated[
    str,
    typer.Option(
        metavar="linear|hidden|kernel",
        help="Model to fit: logistic regression (Theorem 1), a network with one hidden layer (Theorem 2), or a "
        "support vector machine with a polynomial kernel of degree 2 (Theorem 3).",
    ),
]
Pair = Annotated[
    tuple[str, str] | None,
    option(
        "Names of two classes: the one to be predicted, and the one it is told from. Give this or --against-rest.",
        metavar="FIRST SECOND",
    ),
]
AgainstRest = Annotated[
    str | None,
    option("Name of the class to be predicted, told from all others together. Give this or --pair.", metavar="FIRST"),
]
Pixels = Annotated[str, typer.Option(help="Numbers of pixels that may be altered: 5, 1,2,5, or 1..50.", metavar="K")]
Evaluations = Annotated[
    int,
    typer.Option(
        min=0,
        help="Images that each search classifies for each k and background; 0 searches nothing.",
        metavar="NUMBER",
    ),
]
HiddenUnits = Annotated[int, typer.Option(min=1, help="Units of the hidden layer of --model hidden.", metavar="NUMBER")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the fit and of the searches.", metavar="NUMBER")]
TheoryOutput = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the table as CSV and the plot as PNG.", metavar="FOLDER")
]


def theory(
    data: Data = "digits",
    path: DataFolder = None,
    model: Model = "linear",
    pair: Pair = None,
    against_rest: AgainstRest = None,
    k: Pixels = "1..20",
    evaluations: Evaluations = 2000,
    hidden_units: HiddenUnits = 64,
    seed: Seed = 0,
    output: TheoryOutput = Path("theory"),
) -> None:
    """Show the confidence that k pixels reach in a simple model.

    It does so by theorem, and by search. The command fits a model of two classes to the data set's training images. For
    every k, it shows the better of a black and a white background. For a linear model, that is the optimum, which
    nothing exceeds, and Theorem 1 as printed. For the others, it is the guarantee of Algorithms 1 and 2, which a search
    may exceed. Beside it are the results of `de` and `map_elites`.
    """
    from sfi_ray.comparison import compare, fit_pair
    from sfi_ray.data import DatasetSpec, dataset_info
    from sfi_ray.report.bounds import Curve, bounds_table, write_bounds
    from sfi_ray.theory import checked_ks

    if (pair is None) == (against_rest is None):
        raise typer.BadParameter("give --pair or --against-rest, and not both")
    first, second = pair or (str(against_rest), None)
    with explaining():
        ks = _read_ks(k)
        spec = DatasetSpec(name=data, path=path)
        info = dataset_info(spec)
        checked_ks(ks, info.height * info.width)  # before anything is fitted
        fitted = fit_pair(spec, model, first, second, hidden_units=hidden_units, seed=seed)  # type: ignore[arg-type]
        compared = compare(fitted, ks, evaluations=evaluations, seed=seed)
        curves = [Curve("optimum" if compared.printed is not None else "guaranteed", compared.guaranteed.log_odds)]
        if compared.printed is not None:
            curves.append(Curve("Theorem 1 as printed", compared.printed, is_dashed=True))
        curves += [Curve(f"{kind} found", log_odds, is_found=True) for kind, log_odds in compared.found.items()]
        title = f"'{first}' against {_called(second)}: {model} model of {data}, {fitted.test_accuracy:.1%} accurate"
        stem = output / safe_name("_".join([data, model, first, second or "rest"]))
        written = write_bounds(stem, title, compared.ks, curves)
    echo(title)
    echo("Confidence in percent (log-odds):")
    show(bounds_table(compared.ks, curves), width=120)
    print_facts(dict(zip(("table", "plot"), written, strict=True)), width=7)


def _called(second: str | None) -> str:
    return "the rest" if second is None else f"'{second}'"


def _read_ks(text: str) -> list[int]:
    """Reads numbers of pixels: 5, 1,2,5, or 1..50.

    Raises:
        InputError: The text is none of these.
    """
    ks: list[int] = []
    for part in text.split(","):
        bounds = re.fullmatch(r"([0-9]{1,5})(?:\.\.([0-9]{1,5}))?", part.strip())
        if bounds is None:
            raise InputError(f"--k: '{part.strip()}' is not a number of pixels; give 5, 1,2,5, or 1..50")
        low = int(bounds[1])
        high = low if bounds[2] is None else int(bounds[2])
        if low > high:
            raise InputError(f"--k: '{part.strip()}' is empty, since {low} is above {high}; swap them")
        ks += range(low, high + 1)
    return ks
