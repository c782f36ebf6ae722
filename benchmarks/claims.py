"""Makes figures again that the documents state, and compares them.

    uv run benchmarks/claims.py [--list] [SOURCE ...]

A source is a run that documents quote. Its figures are read from the pages themselves, so that a page and this check
cannot drift apart. Without a name, all sources run; the rounds take longest. A figure holds if it differs
from the stated one by no more than the tolerance: trainings end otherwise on other processors. The exit code is 1 if
one does not hold.
"""

import argparse
import csv
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
from report import table

from sfi_ray import open_run
from sfi_ray.data import DatasetSpec, load_dataset

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Claim:
    """Figures that a page states.

    Attributes:
        name: What they are, as its source names them.
        page: The page.
        pattern: Finds them on the page, once; one group a figure.
        within: The largest difference with which they hold.
    """

    name: str
    page: str
    pattern: str
    within: float

    def stated(self):
        """Returns the figures that the page states."""
        found = re.findall(self.pattern, (ROOT / self.page).read_text(), re.MULTILINE)
        if len(found) != 1:
            raise LookupError(f"{self.page} has {len(found)} places like {self.pattern!r}, not one")
        return [float(text.replace(",", "")) for text in ([found[0]] if isinstance(found[0], str) else found[0])]


@dataclass(frozen=True)
class Source:
    """A run that documents quote.

    Attributes:
        measure: Makes it in a folder, and returns its figures by the names of the claims.
        claims: What the documents say of it.
    """

    measure: Callable
    claims: tuple


def sfi_ray(folder, *words):
    """Runs a command of this project in a folder, with a cache of its own: networks are trained again."""
    environment = {**os.environ, "SFI_RAY_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "sfi_ray", *words]
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr, env=environment)


def shares(rows, column):
    """Returns fooled cells and mean confidence in percent, by the values of a column."""
    grouped = rows.group_by(column).aggregate([("fooled", "sum"), ("confidence", "mean")])
    return {row[column]: (row["fooled_sum"], 100 * row["confidence_mean"]) for row in grouped.to_pylist()}


def digits(folder):
    sfi_ray(folder, "launch", str(ROOT / "jobs/digits_5sfi.yaml"), "--no-dashboard")
    run = open_run(str(folder / "runs/digits_5sfi"))
    rows = run.table()
    figures = {name: fooled for name, (fooled, _) in shares(rows, "classifier").items()}
    figures |= {f"accuracy of {one.name}": 100 * one.test_accuracy for one in run.record.classifiers}
    figures["all"] = pc.sum(rows["fooled"]).as_py()
    figures["evaluations"] = pc.sum(rows["evaluations"]).as_py()
    return figures


def by_k(folder):
    job = next(
        block
        for block in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.DOTALL)
        if "name: digits_by_k" in block
    )
    (folder / "digits_by_k.yaml").write_text(job)
    sfi_ray(folder, "launch", "digits_by_k.yaml", "--in-process")
    rows = open_run(str(folder / "runs/digits_by_k")).table()
    return {f"k = {k}": figures for k, figures in shares(rows, "k").items()}


def audit(folder):
    sfi_ray(folder, "audit", "cnn_mp", "--data", "digits", "--budget", "200", "--in-process")
    card = json.loads((folder / "audits/cnn_mp/scorecard.json").read_text())
    by_background = {}
    for one in card["shares"]:
        by_background.setdefault(one["background"], {})[one["k"]] = 100 * one["share"]
    caught = {one["detector"]: (one["total"], 100 * one["share"]) for one in card["detectors"]}
    if not caught:
        raise LookupError(f"no detectors: {card['detectors_missing']}")
    return {background: [by_k[k] for k in (1, 5, 25)] for background, by_k in by_background.items()} | {
        "fooled with one pixel": by_background["any"][1],
        "caught by ViM": caught["vim"],
    }


def pooling(folder):
    """Means over the first two of five seeds."""
    del folder
    from pooling import POOLINGS, attacked, network, trained

    dataset, found = load_dataset(DatasetSpec(name="fashion-mnist")), {}
    for name, seed in itertools.product(POOLINGS, range(2)):
        classifier, natural = trained(network(name, dataset.info, seed), dataset, seed, threads=1)
        confidences = attacked(classifier, dataset.info, seed, 2000).values()
        mean = statistics.mean(itertools.chain(*confidences))
        found.setdefault(name, []).append((100 * natural.accuracy, 100 * mean))
    return {name: list(map(statistics.mean, zip(*seeds, strict=True))) for name, seeds in found.items()}


def resolution(folder):
    """The first of three seeds."""
    del folder
    from pooling import attacked, network, trained
    from resolution import resized

    natural, found = load_dataset(DatasetSpec(name="fashion-mnist")), {}
    for side in (14, 28, 56):
        dataset = resized(natural, side)
        classifier, measured = trained(network("max", dataset.info, 0), dataset, 0, threads=1)
        confidences = [attacked(classifier, dataset.info, 0, 1000, k).values() for k in (1, 4, 16, 64)]
        means = [100 * statistics.mean(itertools.chain(*of_k)) for of_k in confidences]
        found[f"side {side}"] = [100 * measured.accuracy, *means]
    return found


def rounds(folder):
    """Means over the trials."""
    sfi_ray(folder, "launch", str(ROOT / "jobs/ood_digits_seeds.yaml"), "--no-dashboard")
    shares = {}
    with (folder / "runs/ood_digits_seeds/report/rounds.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            shares.setdefault(row["model"], []).append((100 * float(row["natural"]), 100 * float(row["reattack"])))
    return {model: list(map(statistics.mean, zip(*found, strict=True))) for model, found in shares.items()}


TUTORIAL, ROUNDS, AUDIT = "docs/tutorial.md", "docs/guides/rounds.md", "docs/guides/audit.md"
REPRODUCTION = "docs/explanation/reproduction.md"
PERCENT, SPREAD = r"([\d.]+)", r"(\d+) ± \d+"
SOURCES = {
    "digits": Source(
        digits,
        (
            *(
                Claim(f"accuracy of {name}", TUTORIAL, rf"^{name}: {PERCENT}% of the natural images right", 2)
                for name in ("mlp", "cnn_mp", "cnn_none")
            ),
            *(Claim(name, TUTORIAL, rf"^\| `{name}` \| (\d+) of 30 \|", 6) for name in ("mlp", "cnn_mp", "cnn_none")),
            Claim("all", TUTORIAL, r"`(\d+) of 90 cells fooled", 10),
            Claim("evaluations", TUTORIAL, r"cells fooled, ([\d,]+) evaluations`", 0),
        ),
    ),
    "by_k": Source(
        by_k,
        tuple(Claim(f"k = {k}", TUTORIAL, rf"^\| {k} \| (\d+) of 30 \| {PERCENT} % \|", 8) for k in (1, 2, 3, 5, 8)),
    ),
    "audit": Source(
        audit,
        (
            *(
                Claim(name, TUTORIAL, rf"^\| {name} \| {PERCENT} \| {PERCENT} \| {PERCENT} \|$", 15)
                for name in ("black", "gray", "white", "any")
            ),
            Claim("fooled with one pixel", AUDIT, r"fools (\d+) % of the classes with one pixel", 15),
            Claim("caught by ViM", AUDIT, r"Of the (\d+) images that fool, [^%]+ catches (\d+) %", 15),
        ),
    ),
    "pooling": Source(
        pooling,
        tuple(
            Claim(name, REPRODUCTION, rf"^\| {shown} \| (\d+) ± \d+ \| (\d+) ± \d+ \| .*\|$", 6)
            for name, shown in {
                "max": "max",
                "max and blur": "max at every place, then a blur",
                "stride": "none; the convolution before has stride 2",
                "average": "average",
                "blur": "blur",
            }.items()
        ),
    ),
    "resolution": Source(
        resolution,
        tuple(
            Claim(
                f"side {side}",
                REPRODUCTION,
                rf"^\| {side} x {side}" + 5 * rf" \| {SPREAD}" + r" \|$",
                15,
            )
            for side in (14, 28, 56)
        ),
    ),
    "rounds": Source(
        rounds,
        tuple(
            Claim(name, ROUNDS, rf"^\| {name} \| [^|]+ \| (\d+) ± \d+ \| [^|]+ \| (\d+) ± \d+ \|$", 10)
            for name in ("M0", "M1", "M2", "M3", "M4")
        ),
    ),
}


def as_list(figures):
    return list(figures) if isinstance(figures, list | tuple) else [figures]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help=f"among {', '.join(SOURCES)}")
    parser.add_argument("--list", action="store_true", help="the sources, with what is stated; runs nothing")
    options = parser.parse_args()
    if unknown := [name for name in options.sources if name not in SOURCES]:
        parser.error(f"no source '{unknown[0]}'; there are {', '.join(SOURCES)}")
    rows = []
    for name in options.sources or SOURCES:
        source = SOURCES[name]
        with tempfile.TemporaryDirectory() as folder:
            measured = {} if options.list else source.measure(Path(folder))
        for claim in source.claims:
            stated, again = claim.stated(), as_list(measured.get(claim.name, ()))
            holds = ""
            if again:
                differences = [abs(one - other) for one, other in zip(stated, again, strict=True)]
                holds = "yes" if max(differences) <= claim.within else "no"
            rows.append(
                {
                    "source": name,
                    "claim": claim.name,
                    "page": claim.page,
                    "stated": ", ".join(f"{value:,g}" for value in stated),
                    "again": ", ".join(f"{value:,.4g}" for value in again),
                    "within": f"{claim.within:g}",
                    "holds": holds,
                }
            )
    print("\n".join(table(rows)))
    sys.exit(any(row["holds"] == "no" for row in rows))


if __name__ == "__main__":
    main()
