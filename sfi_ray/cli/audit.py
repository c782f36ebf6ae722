"""The command `sfi-ray audit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from sfi_ray.cli.arguments import (
    Actors,
    Address,
    Device,
    InProcess,
    argument,
    checked_device,
    number,
    option,
    output_option,
)
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, fits_on_screen, print_facts, print_table
from sfi_ray.location import within
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.cluster.audit import AuditOutcome
    from sfi_ray.data import DatasetInfo, DatasetSpec
    from sfi_ray.job import ClassifierSpec, Job, TrackerName
    from sfi_ray.review.gate_files import Gate
    from sfi_ray.review.scorecard import Scorecard

Model = Annotated[
    str | None,
    argument(
        "The classifier: a network of the zoo, a .pt2 file, package.module:callable, or a job's entry in braces, such "
        "as '{name: vgg16, weights: FILE, mean: [0.49, 0.48, 0.45], std: [0.25, 0.24, 0.26]}' or "
        "'{torchvision: resnet50, weights: DEFAULT}'.",
        metavar="MODEL",
    ),
]
Data = Annotated[
    str | None,
    option(
        "Data set with the image size, the class names and the images for the detectors: a name, a folder, or a job's "
        "entry in braces. By default imagenet for networks of torchvision and timm.",
        metavar="DATASET",
    ),
]
Labels = Annotated[
    Path | None,
    option(
        "File with the class names, one per line or as a JSON list. It replaces --data and needs --shape.",
        metavar="FILE",
    ),
]
Shape = Annotated[str | None, option("Channels, rows and columns of an image, with --labels.", metavar="CxHxW")]
Budget = Annotated[int | None, number("Most images to classify for a cell. By default 1,000.", min=1)]
Classes = Annotated[
    int | None,
    number("Number of classes to attack, in equal steps through the list. By default all, but at most 100.", min=1),
]
Seeds = Annotated[int | None, number("Number of searches of every cell. By default 3.", min=1)]
UseGradients = Annotated[
    bool,
    typer.Option(
        "--gradients/--no-gradients",
        help="Let gradients propose half of the candidates; otherwise the search uses probabilities only.",
    ),
]
FailAbove = Annotated[
    float | None,
    option(
        "End with exit code 4 when a larger share of the classes is fooled, on any background. By default there is no "
        "limit.",
        metavar="SHARE",
        min=0.0,
        max=1.0,
    ),
]
AtK = Annotated[int | None, number("The k of --fail-above: 1, 5 or 25. By default 25.", "--at-k")]
JunitFile = Annotated[
    Path | None,
    option("Also write the outcome as JUnit XML, with a test case for each k and background.", metavar="FILE"),
]
SarifFile = Annotated[
    Path | None,
    option(
        "Also write the outcome as SARIF, with a result for each class and background that is fooled, for GitHub code "
        "scanning for instance.",
        metavar="FILE",
    ),
]
BadgeFile = Annotated[
    Path | None,
    option("Also write the endpoint of a badge of shields.io, as JSON. It needs --fail-above.", metavar="FILE"),
]
Trackers = Annotated[
    list[str] | None,
    option("Tracker that follows the audit: tensorboard, mlflow or wandb. Repeat it for several.", metavar="TRACKER"),
]
Compared = Annotated[
    tuple[str, str] | None,
    option("Compare two audits, given by folder or file, instead of auditing.", metavar="A B"),
]
AuditOutput = Annotated[
    str | None,
    output_option(
        "Folder or URI for the audit's folder, by default audits. With --compare, a new folder for the table, by "
        "default none."
    ),
]
AuditName = Annotated[str | None, option("Name of the audit's folder. By default the model's.", metavar="NAME")]
FreshAudit = Annotated[bool, typer.Option("--fresh", help="Delete an earlier audit of this name first.")]
RetryFailedOfAudit = Annotated[
    bool, typer.Option("--retry-failed", help="Search cells again that failed in an earlier audit.")
]
AllowChance = Annotated[
    bool,
    typer.Option("--allow-chance", help="Also audit a classifier whose accuracy on natural images is near chance."),
]


def audit(
    model: Model = None,
    data: Data = None,
    labels: Labels = None,
    shape: Shape = None,
    budget: Budget = None,
    classes: Classes = None,
    seeds: Seeds = None,
    gradients: UseGradients = True,
    fail_above: FailAbove = None,
    at_k: AtK = None,
    junit: JunitFile = None,
    sarif: SarifFile = None,
    badge: BadgeFile = None,
    track: Trackers = None,
    compare: Compared = None,
    output: AuditOutput = None,
    name: AuditName = None,
    device: Device = "auto",
    actors: Actors = None,
    address: Address = None,
    in_process: InProcess = False,
    fresh: FreshAudit = False,
    retry_failed: RetryFailedOfAudit = False,
    allow_chance: AllowChance = False,
) -> None:
    """Test a classifier on a standard grid, and write a scorecard.

    The grid has six backgrounds (three for gray images), 1, 5 and 25 altered pixels, all classes but at most 100, and
    three seeds. The search is the same for every network. The audit first examines the network. It refuses one with
    other outputs than described, with random outputs, with outputs that depend on the batch, or with an accuracy on
    natural images near chance. An audit resumes where it stopped.
    """
    if model is None or compare is not None:
        _compare(model, compare, output, [junit, sarif, badge])
        return
    from sfi_ray.cluster.audit import audit as start
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.job import ClusterSettings, Compute
    from sfi_ray.review.audit_job import StandardGrid, audit_job

    gate = _gate(fail_above, at_k, junit, sarif, badge)
    trackers = _trackers(track or [])
    with explaining():
        gate.check()
        job = audit_job(
            *_described(model, data, labels, shape),
            name=name,
            budget=budget or StandardGrid.budget,
            num_classes=classes,
            seeds=seeds or StandardGrid.seeds,
            gradients=gradients,
            output=output or "audits",
            compute=Compute.model_validate({"device": checked_device(device), "precision": "float32"}),
            cluster=ClusterSettings(actors=actors),
            track=trackers,
        )
        done = start(
            job,
            reporter=ConsoleReporter(),
            address=address,
            in_process=in_process,
            fresh=fresh,
            retry_failed=retry_failed,
            allow_chance=allow_chance,
        )
    _conclude(job, done, gate)


def _compare(
    model: str | None, places: tuple[str, str] | None, output: str | None, files: Sequence[Path | None]
) -> None:
    """Compares two audits, if nothing was given that belongs to one audit."""
    if places is None:
        raise typer.BadParameter("give a model, or two audits to --compare", param_hint="MODEL")
    if model is not None:
        raise typer.BadParameter("takes no model", param_hint="--compare")
    if any(files):
        raise typer.BadParameter(
            "goes without --junit, --sarif and --badge, which are of one audit", param_hint="--compare"
        )
    from sfi_ray.cluster.audit import open_scorecard
    from sfi_ray.review.scorecard_tables import compare_scorecards, comparison_csv
    from sfi_ray.store.whole_folder import whole_folder

    with explaining("stopped; nothing was written"):
        first, second = map(open_scorecard, places)
        compared = compare_scorecards(first, second, places)
        if output is not None:
            with whole_folder(Path(output), marker="comparison.csv", overwrite=False) as folder:
                (folder / "comparison.csv").write_text(comparison_csv(compared), "utf-8")
                (folder / "comparison.md").write_text(compared.to_markdown(), "utf-8")
    print_table(compared)


def _gate(
    fail_above: float | None, at_k: int | None, junit: Path | None, sarif: Path | None, badge: Path | None
) -> Gate:
    from sfi_ray.review.audit_job import StandardGrid
    from sfi_ray.review.gate import Limit
    from sfi_ray.review.gate_files import Gate

    if badge is not None and fail_above is None:
        raise typer.BadParameter("needs --fail-above, which decides its colour", param_hint="--badge")
    ks = StandardGrid.ks
    limit_k = max(ks) if at_k is None else at_k
    if limit_k not in ks:
        raise typer.BadParameter(f"is one of {', '.join(map(str, ks))}", param_hint="--at-k")
    return Gate(None if fail_above is None else Limit(fail_above, limit_k), junit, sarif, badge)


def _trackers(given: Sequence[str]) -> tuple[TrackerName, ...]:
    from sfi_ray.job import TrackerName

    known: tuple[TrackerName, ...] = get_args(TrackerName)
    if not set(given) <= set(known):
        raise typer.BadParameter(f"is one of {', '.join(known)}", param_hint="--track")
    return tuple(name for name in known if name in given)


def _described(
    model: str, data: str | None, labels: Path | None, shape: str | None
) -> tuple[ClassifierSpec, DatasetSpec, DatasetInfo]:
    """Returns a classifier, the data set of its images, and the facts about this data set.

    Raises:
        InputError: A text describes none, or the image size and the class names are unknown or given twice.
    """
    from sfi_ray.data import dataset_info
    from sfi_ray.job.classifier_text import parse_classifier

    classifier = parse_classifier(model)
    dataset = _dataset(classifier, data, labels, shape)
    return classifier, dataset, dataset_info(dataset)


def _dataset(classifier: ClassifierSpec, data: str | None, labels: Path | None, shape: str | None) -> DatasetSpec:
    """Returns the data set with the image size and class names of the classifier.

    Raises:
        InputError: They are unknown, or given twice.
    """
    from sfi_ray.errors import InputError
    from sfi_ray.job.dataset_text import described_dataset, parse_dataset

    if (labels is None) != (shape is None):
        raise InputError("--labels and --shape go together: the classes, and the size of an image such as 3x224x224")
    if labels is not None and shape is not None:
        if data is not None:
            raise InputError("--data excludes --labels and --shape; give only one of the two")
        return described_dataset(labels, shape)
    if data is not None:
        return parse_dataset(data)
    if classifier.torchvision or classifier.timm:
        return parse_dataset("imagenet")
    raise InputError(
        f"the image size and the class names of '{classifier.name}' are unknown; give --data, such as --data cifar10, "
        "or --labels and --shape"
    )


def _conclude(job: Job, done: AuditOutcome, gate: Gate) -> None:
    """Prints the scorecard, writes what the gate reads, and ends with the exit code."""
    from sfi_ray.review.gate import failed_cells

    if done.scorecard is None:
        with explaining():
            gate.delete()
        status = done.run.status()
        cells = f"{status.finished:,} of {counted(status.num_cells, 'cell')}"
        echo(f"stopped with {cells} finished; repeat the command to go on", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    _print(done.scorecard)
    places = {"page": "scorecard.html", "numbers": "scorecard.json", "job": "audit.yaml"}
    print_facts({title: within(job.location, file) for title, file in places.items()})
    with explaining("stopped; the scorecard is kept"):
        print_facts(gate.write(job, done.scorecard))
    if failed := failed_cells(done.scorecard):
        echo(f"{failed}; try them again with --retry-failed", err=True)
        raise typer.Exit(ExitCode.FAILED_CELLS)
    if excess := gate.excess(done.scorecard):
        echo(f"{excess} (--fail-above)", err=True)
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _print(card: Scorecard) -> None:
    from sfi_ray.review.scorecard_tables import (
        backgrounds_table,
        detectors_table,
        headline,
        shares_table,
        smallest_k_table,
    )

    print_table(shares_table(card))
    print_table(backgrounds_table(card))
    if fits_on_screen(len(card.classes)):
        print_table(smallest_k_table(card))
    print_table(detectors_table(card))
    echo(headline(card))
