"""An audit: a launch of the standard grid on one classifier, and the scorecard of its results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from sfi_ray.cluster.launch import launch
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.tracking.tracking import Tracking, tracked_grid
from sfi_ray.errors import InputError
from sfi_ray.job import Job
from sfi_ray.location import within
from sfi_ray.models import Classifier
from sfi_ray.models.given import as_classifier
from sfi_ray.report.site.scorecard_page import ShownImage, best_cells, render_scorecard
from sfi_ray.review.audit import make_scorecard
from sfi_ray.review.audit_job import job_yaml
from sfi_ray.review.scorecard import ANY, AUDIT_JOB, PAGE, SCORECARD, TEXT, Scorecard, read_scorecard
from sfi_ray.review.scorecard_tables import scorecard_markdown
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.rebuild import rebuild_images
from sfi_ray.store.run import Run


@dataclass(frozen=True, slots=True)
class AuditOutcome:
    """The result of an audit.

    Attributes:
        run: Its run.
        scorecard: The scorecard; None where the search was interrupted.
    """

    run: Run
    scorecard: Scorecard | None


def audit(
    job: Job,
    *,
    classifiers: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    address: str | None = None,
    in_process: bool = False,
    fresh: bool = False,
    retry_failed: bool = False,
    allow_chance: bool = False,
) -> AuditOutcome:
    """Runs or resumes the job of an audit, and writes the scorecard into its run's folder.

    Args:
        job: A job of `sfi_ray.review.audit_job.audit_job`.
        classifiers: As `sfi_ray.launch`.
        reporter: Hears of the progress; by default nothing is printed.
        address: As `sfi_ray.launch`.
        in_process: As `sfi_ray.launch`.
        fresh: As `sfi_ray.launch`.
        retry_failed: As `sfi_ray.launch`.
        allow_chance: Also audit a classifier whose accuracy on natural images is near chance.

    Raises:
        InputError: As `sfi_ray.launch`, or the classifier's accuracy on natural images is near chance.
        StorageError: As `sfi_ray.launch`.
        ResourceError: As `sfi_ray.launch`.
    """
    reporter = reporter or Reporter()
    run = launch(
        job,
        classifiers=classifiers,
        reporter=reporter,
        address=address,
        in_process=in_process,
        fresh=fresh,
        retry_failed=retry_failed,
        refuse_chance=not allow_chance,
    )
    run.folder.write(AUDIT_JOB, job_yaml(job).encode())
    if not run.status().is_complete:
        for name in (SCORECARD, TEXT, PAGE):  # of an earlier audit of this name
            run.folder.delete(name)
        return AuditOutcome(run, None)
    # The launch has checked that the record is of this job.
    card = make_scorecard(run, reporter.log, given=_given(run, classifiers or {}), allow_code=True)
    files = {
        SCORECARD: card.model_dump_json(indent=2) + "\n",
        TEXT: scorecard_markdown(card),
        PAGE: render_scorecard(card, _shown(run)),
    }
    for name, content in files.items():
        run.folder.write(name, content.encode())
    shares = {f"fooled_share_k{share.k}": share.share for share in card.shares if share.background == ANY}
    with Tracking(job.track, tracked_grid(job, run.folder, run.record.num_cells), reporter.log) as tracking:
        tracking.results({name: share for name, share in shares.items() if share is not None}, run.folder, files)
    return AuditOutcome(run, card)


def open_scorecard(location: str) -> Scorecard:
    """Reads the scorecard of an audit.

    Args:
        location: Its folder or URI, or the file itself.

    Raises:
        InputError: There is none, or it is broken.
        StorageError: It cannot be read.
    """
    path = Path(location)
    if path.is_file():
        return read_scorecard(path.read_bytes(), location)
    folder = RunFolder(location)
    if not folder.exists(SCORECARD):
        raise InputError(f"'{location}' has no {SCORECARD}; give the folder of a finished audit, or that file")
    return read_scorecard(folder.read(SCORECARD), within(location, SCORECARD))


def _given(run: Run, classifiers: Mapping[str, Any]) -> dict[str, Classifier]:
    """Makes classifiers of what was given in code; networks given by name are in the run's folder."""
    shape, num_classes = run.record.input_shape, len(run.record.class_names)
    return {
        name: as_classifier(one, name=name, input_shape=shape, num_classes=num_classes)
        for name, one in classifiers.items()
        if not isinstance(one, str)
    }


def _shown(run: Run) -> list[ShownImage]:
    """Reads the images that the page shows."""
    ids = best_cells(run.table(["cell_id", "target_class", "k", "fooled", "confidence"]))
    if not ids:
        return []
    rows = run.table(filter=ds.field("cell_id").isin(pa.array(ids, pa.string())))
    described = rows.select(["cell_id", "target_class", "background", "k", "confidence"]).to_pylist()
    names = run.record.class_names
    shown = {
        row["cell_id"]: ShownImage(names[row["target_class"]], image, row["background"], row["k"], row["confidence"])
        for row, image in zip(described, rebuild_images(rows), strict=True)
    }
    return [shown[cell_id] for cell_id in ids]
