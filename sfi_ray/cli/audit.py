"""The command `sfi-ray audit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from sfi_ray.cli.arguments import Actors, Address, Device, InProcess, argument, number, option, output_option
from sfi_ray.cli.exits import ExitCode, explaining
from sfi_ray.cli.printing import echo, fits_on_screen, print_table
from sfi_ray.location import within
from sfi_ray.text import counted

if TYPE_CHECKING:
    from sfi_ray.data import DatasetSpec
    from sfi_ray.job import ClassifierSpec, Job
    from sfi_ray.review.gate import Limit
    from sfi_ray.review.scorecard import Scorecard


def audit(
    model: Annotated[
        str | None,
        argument(
            "The classifier: a network of the zoo, a .pt2 file, package.module:callable, or a job's entry in "
            "braces, such as '{name: vgg16, weights: FILE, mean: [0.49, 0.48, 0.45], std: [0.25, 0.24, 0.26]}' or "
            "'{torchvision: resnet50, weights: DEFAULT}'.",
            metavar="MODEL",
        ),
    ] = None,
    data: Annotated[
        str | None,
        option(
            "Data set with the image size, the class names and the images for the detectors: a name, a folder, or "
            "a job's entry in braces. By default imagenet for networks of torchvision and timm.",
            metavar="DATASET",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        option(
            "File with the class names, one per line or as a JSON list. It replaces --data and needs --shape.",
            metavar="FILE",
        ),
    ] = None,
    shape: Annotated[
        str | None, option("Channels, rows and columns of an image, with --labels.", metavar="CxHxW")
    ] = None,
    budget: Annotated[int | None, number("Most images to classify for a cell. By default 1,000.", min=1)] = None,
    classes: Annotated[
        int | None,
        number("Number of classes to attack, in equal steps through the list. By default all, but at most 100.", min=1),
    ] = None,
    seeds: Annotated[int | None, number("Number of searches of every cell. By default 3.", min=1)] = None,
    gradients: Annotated[
        bool,
        typer.Option(
            "--gradients/--no-gradients",
            help="Let gradients propose half of the candidates; otherwise the search uses probabilities only.",
        ),
    ] = True,
    fail_above: Annotated[
        float | None,
        option(
            "End with exit code 4 when a larger share of the classes is fooled, on any background. By default "
            "there is no limit.",
            metavar="SHARE",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    at_k: Annotated[int | None, number("The k of --fail-above: 1, 5 or 25. By default 25.", "--at-k")] = None,
    junit: Annotated[
        Path | None,
        option("Also write the outcome as JUnit XML, with a test case for each k and background.", metavar="FILE"),
    ] = None,
    sarif: Annotated[
        Path | None,
        option(
            "Also write the outcome as SARIF, with a result for each class and background that is fooled, for GitHub "
            "code scanning for instance.",
            metavar="FILE",
        ),
    ] = None,
    badge: Annotated[
        Path | None,
        option("Also write the endpoint of a badge of shields.io, as JSON. It needs --fail-above.", metavar="FILE"),
    ] = None,
    track: Annotated[
        list[str] | None,
        option(
            "Tracker that follows the audit: tensorboard, mlflow or wandb. Repeat it for several.", metavar="TRACKER"
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        option("Compare two audits, given by folder or file, instead of auditing.", metavar="A B"),
    ] = None,
    output: Annotated[
        str | None,
        output_option(
            "Folder or URI for the audit's folder, by default audits. With --compare, a new folder for the table, "
            "by default none."
        ),
    ] = None,
    name: Annotated[str | None, option("Name of the audit's folder. By default the model's.", metavar="NAME")] = None,
    device: Device = "auto",
    actors: Actors = None,
    address: Address = None,
    in_process: InProcess = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier audit of this name first.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Search cells again that failed in an earlier audit.")
    ] = False,
    allow_chance: Annotated[
        bool,
        typer.Option(
            "--allow-chance",
            help="Also audit a classifier whose accuracy on natural images is near chance.",
        ),
    ] = False,
) -> None:
    """Test a classifier on a standard grid, and write a scorecard.

    The grid has six backgrounds (three for gray images), 1, 5 and 25 altered pixels, all classes but at most 100, and
    three seeds. The search is the same for every network. The audit first examines the network. It refuses one with
    other outputs than described, with random outputs, with outputs that depend on the batch, or with an accuracy on
    natural images near chance. An audit resumes where it stopped.
    """
    if compare is not None:
        if model is not None:
            raise typer.BadParameter("takes no model", param_hint="--compare")
        if (junit, sarif, badge) != (None, None, None):
            raise typer.BadParameter(
                "goes without --junit, --sarif and --badge, which are of one audit", param_hint="--compare"
            )
        _compare(compare, output)
        return
    if model is None:
        raise typer.BadParameter("give a model, or two audits to --compare", param_hint="MODEL")
    if badge is not None and fail_above is None:
        raise typer.BadParameter("needs --fail-above, which decides its colour", param_hint="--badge")
    from sfi_ray.cluster.audit import audit as start
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.data import dataset_info
    from sfi_ray.errors import InputError
    from sfi_ray.job import ClusterSettings, Compute, TrackerName
    from sfi_ray.job.classifier_text import parse_classifier
    from sfi_ray.review.audit_job import StandardGrid, audit_job
    from sfi_ray.review.gate import Limit

    ks = StandardGrid.ks
    limit_k = max(ks) if at_k is None else at_k
    if limit_k not in ks:
        raise typer.BadParameter(f"is one of {', '.join(map(str, ks))}", param_hint="--at-k")
    limit = None if fail_above is None else Limit(fail_above, limit_k)
    trackers = get_args(TrackerName)
    if not set(track or ()) <= set(trackers):
        raise typer.BadParameter(f"is one of {', '.join(trackers)}", param_hint="--track")
    outputs = [path for path in (junit, sarif, badge) if path is not None]
    with explaining():
        _check_outputs(outputs)
        classifier = parse_classifier(model)
        dataset = _dataset(classifier, data, labels, shape)
        if device not in ("auto", "cpu", "cuda"):
            raise InputError(f"no such device: '{device}'; use auto, cpu or cuda")
        job = audit_job(
            classifier,
            dataset,
            dataset_info(dataset),
            name=name,
            budget=budget or StandardGrid.budget,
            num_classes=classes,
            seeds=seeds or StandardGrid.seeds,
            gradients=gradients,
            output=output or "audits",
            compute=Compute.model_validate({"device": device, "precision": "float32"}),
            cluster=ClusterSettings(actors=actors),
            track=tuple(name for name in trackers if name in (track or ())),
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
    if done.scorecard is None:
        with explaining():
            _delete_outputs(outputs)
        status = done.run.status()
        cells = f"{status.finished:,} of {counted(status.num_cells, 'cell')}"
        echo(f"stopped with {cells} finished; repeat the command to go on", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED)
    _print(done.scorecard)
    for title, file in {"page": "scorecard.html", "numbers": "scorecard.json", "job": "audit.yaml"}.items():
        echo(f"{title + ':':<10}{within(job.location, file)}")
    with explaining("stopped; the scorecard is kept"):
        _write_outputs(job, done.scorecard, limit, junit, sarif, badge)
    _judge(done.scorecard, limit)


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


def _check_outputs(paths: list[Path]) -> None:
    """Checks, before hours of search, that files can be written.

    Raises:
        InputError: One is a folder, or has no name that a file can have.
        StorageError: A folder cannot be written.
    """
    from sfi_ray.errors import InputError
    from sfi_ray.store.folder import RunFolder

    for path in paths:
        if path.is_dir():
            raise InputError(f"'{path}' is a folder; name a file")
        folder = RunFolder(path.parent)
        folder.path(path.name)
        folder.check_writable()


def _delete_outputs(paths: list[Path]) -> None:
    """Deletes files of an earlier audit, which would pass for those of an interrupted one."""
    from sfi_ray.store.folder import RunFolder

    for path in paths:
        RunFolder(path.parent).delete(path.name)


def _write_outputs(
    job: Job, card: Scorecard, limit: Limit | None, junit: Path | None, sarif: Path | None, badge: Path | None
) -> None:
    """Writes what a release pipeline reads.

    Raises:
        StorageError: A file cannot be written.
    """
    from sfi_ray.review.gate import badge_json, junit_xml
    from sfi_ray.review.sarif import sarif_json, uri_of
    from sfi_ray.review.scorecard import AUDIT_JOB
    from sfi_ray.store.folder import RunFolder

    contents: dict[str, tuple[Path, bytes]] = {}
    if junit is not None:
        contents["junit"] = junit, junit_xml(card, limit)
    if sarif is not None:
        uri = uri_of(job.classifiers[0], within(job.location, AUDIT_JOB))
        contents["sarif"] = sarif, sarif_json(card, limit, uri).encode()
    if badge is not None and limit is not None:
        contents["badge"] = badge, badge_json(card, limit).encode()
    for title, (path, content) in contents.items():
        RunFolder(path.parent).write(path.name, content)
        echo(f"{title + ':':<10}{path}")


def _judge(card: Scorecard, limit: Limit | None) -> None:
    """Ends with the exit code of the scorecard."""
    from sfi_ray.review.gate import failed_cells

    if failed := failed_cells(card):
        echo(f"{failed}; try them again with --retry-failed", err=True)
        raise typer.Exit(ExitCode.FAILED_CELLS)
    if limit is not None and (excess := limit.excess(card.share(limit.k))):
        echo(f"{excess} (--fail-above)", err=True)
        raise typer.Exit(ExitCode.DOES_NOT_HOLD)


def _compare(places: tuple[str, str], output: str | None) -> None:
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
