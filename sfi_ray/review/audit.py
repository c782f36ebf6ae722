"""Makes the scorecard of an audit from its finished run: counts its rows and measures its classifier.

Shapes: N images, H height, W width, C channels.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfi_ray.data import DatasetSpec, ImageDataset, Split, dataset_info, load_labels, stream_rows
from sfi_ray.errors import InputError
from sfi_ray.models import Classifier
from sfi_ray.models.detectors import make_detectors
from sfi_ray.review.audit_job import StandardGrid, is_standard
from sfi_ray.review.layer_features import first_of_each
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.scorecard import (
    Audited,
    BareBackground,
    Costs,
    DetectorResult,
    FooledCells,
    GridFacts,
    Scorecard,
    detector_result,
)
from sfi_ray.review.scoring import batch_rows, probabilities
from sfi_ray.rounds.detection import SFI, detect
from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images
from sfi_ray.store.run import Run
from sfi_ray.text import MOST_LINE, counted, printable


@dataclass(frozen=True, slots=True)
class _Detected:
    """The results that need natural images."""

    detectors: tuple[DetectorResult, ...] = ()
    missing: str | None = None
    accuracy: float | None = None
    num_natural: int = 0


def make_scorecard(
    run: Run,
    log: Callable[[str], None],
    *,
    given: Mapping[str, Classifier] | None = None,
    allow_code: bool = False,
) -> Scorecard:
    """Makes the scorecard of an audit from the run of a job that `audit_job` made, with a row for every cell.

    Args:
        run: The run.
        log: Hears of the progress.
        given: The classifier by its name in the job, where it was given in code.
        allow_code: As `RunClassifiers`.

    Raises:
        InputError: The run does not belong to an audit, or cells have no row.
        StorageError: A part file cannot be read.
    """
    record, job = run.record, run.job
    if len(record.classifiers) != 1 or not isinstance(job.k, tuple) or job.selection is not None:
        raise InputError(
            f"'{run.folder.location}' is not the run of an audit: an audit has one classifier and a list of k"
        )
    status = run.status()
    if not status.is_complete:
        raise InputError(
            f"'{run.folder.location}' has rows of {status.finished:,} of {counted(status.num_cells, 'cell')}; repeat "
            "the audit to continue it"
        )
    facts = _grid_facts(run, job.k)
    cells = FooledCells(run.table(list(FooledCells.columns)).to_pylist(), facts)
    log("measuring the bare backgrounds and the detectors")
    classifier = RunClassifiers(run, given, allow_code=allow_code)[record.classifiers[0].name]
    detected = _detected(run, classifier)
    costs = run.table(["backward_passes", "verifications"])
    return Scorecard(
        model=Audited(
            name=classifier.name,
            fingerprint=classifier.fingerprint,
            source=record.classifiers[0].architecture,
            dataset=record.dataset,
            input_shape=record.input_shape,
            num_classes=len(record.class_names),
            accuracy=detected.accuracy,
            num_natural=detected.num_natural,
            outputs=record.classifiers[0].outputs,
            remarks=record.classifiers[0].remarks,
        ),
        grid=facts,
        shares=tuple(cells.shares()),
        classes=tuple(cells.classes(record.class_names)),
        backgrounds=tuple(_bare_backgrounds(run, classifier)),
        detectors=detected.detectors,
        detectors_missing=detected.missing,
        costs=Costs(
            cells=status.num_cells,
            failed=status.failed,
            evaluations=status.evaluations,
            backward_passes=pc.sum(costs["backward_passes"]).as_py() or 0,
            verifications=pc.sum(costs["verifications"]).as_py() or 0,
        ),
        versions=record.versions,
    )


def _grid_facts(run: Run, ks: tuple[int, ...]) -> GridFacts:
    job, grid = run.job, run.record.grid()
    return GridFacts(
        standard=StandardGrid.version,
        is_standard=is_standard(job, len(run.record.class_names), run.record.input_shape[0]),
        backgrounds=tuple(background.name for background in grid.backgrounds),
        ks=ks,
        seeds=job.replicates,
        classes=tuple(index for index, _ in grid.target_classes),
        threshold=job.verification.threshold,
        attack=job.attack.identity(),
    )


def _colours(run: Run) -> NDArray[np.uint8]:
    """Returns the bare backgrounds as images, ``(N, H, W, C)``."""
    channels, height, width = run.record.input_shape
    values = np.array([background.value for background in run.record.grid().backgrounds], np.uint8)
    return np.broadcast_to(values[:, None, None, :], (len(values), height, width, channels)).copy()


def _bare_backgrounds(run: Run, classifier: Classifier) -> list[BareBackground]:
    names = run.record.class_names
    scores = np.nan_to_num(probabilities(_colours(run), classifier), nan=0.0)
    return [
        BareBackground(
            background=background.name,
            value=background.value,
            predicted_class=int(score.argmax()),
            predicted_name=names[int(score.argmax())],
            confidence=min(1.0, float(score.max())),
        )
        for background, score in zip(run.record.grid().backgrounds, scores, strict=True)
    ]


def _detected(run: Run, classifier: Classifier) -> _Detected:
    """Measures accuracy and detectors, where there are natural images."""
    spec = run.job.dataset
    try:
        info = dataset_info(spec)
        test_images, test_labels = _some(spec, "test", 500)
    except InputError as error:
        return _Detected(missing=printable(error, MOST_LINE))
    if (info.shape, info.class_names) != (run.record.input_shape, run.record.class_names):
        return _Detected(missing=f"data set '{info.name}' no longer has the images or classes of the launch")
    scores = probabilities(test_images.permute(0, 2, 3, 1).numpy(), classifier)
    accuracy = float((scores.argmax(axis=1) == test_labels.numpy()).mean())
    known = _Detected((), None, accuracy, len(test_images))
    if importlib.util.find_spec("pytorch_ood") is None:
        missing = "the package pytorch-ood is not installed: `uv sync --extra detectors` installs it"
        return replace(known, missing=missing)
    sfis, seeds = _fooling(run)
    if not len(sfis):
        return replace(known, missing="no image fools the classifier")
    try:
        train_images, train_labels = _some(spec, "train", 1000)
        dataset = ImageDataset(info, train_images, train_labels, test_images, test_labels)
        results = _ask(classifier, dataset, sfis, seeds, _as_tensor(_colours(run)), run.job.replicates)
    except (InputError, RuntimeError, ValueError) as error:  # a detector may refuse a singular matrix of features
        return replace(known, missing=f"fitting them failed: {printable(error, MOST_LINE)}")
    return replace(known, detectors=results)


def _ask(
    classifier: Classifier,
    dataset: ImageDataset,
    sfis: Tensor,
    seeds: NDArray[np.int64],
    colours: Tensor,
    num_seeds: int,
) -> tuple[DetectorResult, ...]:
    results = []
    for name, score in make_detectors(classifier, dataset).items():
        of_sfis, natural, of_colours = (
            score(images).double().numpy() for images in (sfis, dataset.test_images, colours)
        )
        auroc = detect(name, SFI, of_sfis, natural).auroc
        results.append(detector_result(name, auroc, of_sfis, seeds, natural, of_colours, num_seeds))
    return tuple(sorted(results, key=lambda result: -(result.share or 0.0)))


def _some(spec: DatasetSpec, split: Split, most: int) -> tuple[Tensor, Tensor]:
    """Reads the first natural images of each class: about `most` in all, and at least two of each class.

    Raises:
        InputError: The data set or the split has none.
    """
    labels = load_labels(spec, split)
    each = max(2, most // max(1, len(np.unique(labels.numpy()))))
    rows = first_of_each(labels.numpy(), each)
    images = torch.cat(list(stream_rows(spec, split, rows.tolist(), 1000, "crop")))
    return images, labels[rows]


def _fooling(run: Run, most: int = 500) -> tuple[Tensor, NDArray[np.int64]]:
    """Reads up to `most` images that fool, in equal steps through the grid, and the seed of each."""
    indices = [
        index
        for table in run.batches(["cell_index"], batch_rows(run.record.input_shape), ds.field("fooled"))
        for index in table["cell_index"].to_pylist()
    ]
    if not indices:
        return torch.zeros(0), np.zeros(0, np.int64)
    step = max(1.0, len(indices) / most)
    chosen = [indices[int(place * step)] for place in range(min(len(indices), most))]
    wanted = ds.field("fooled") & ds.field("cell_index").isin(pa.array(chosen, pa.int64()))
    table = pa.concat_tables(run.batches(["replicate", *IMAGE_COLUMNS], batch_rows(run.record.input_shape), wanted))
    return _as_tensor(rebuild_images(table)), table["replicate"].to_numpy().astype(np.int64)


def _as_tensor(images: NDArray[np.uint8]) -> Tensor:
    """Turns images ``(N, H, W, C)`` into a tensor ``(N, C, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
