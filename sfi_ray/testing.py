"""An assertion for test suites: a classifier is not fooled by sparse fooling images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import pyarrow.dataset as ds

from sfi_ray.cluster.audit import AuditOutcome, audit
from sfi_ray.data import DatasetSpec, dataset_info
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.job.dataset_text import parse_dataset
from sfi_ray.models import Classifier
from sfi_ray.review.audit_job import StandardGrid, audit_job
from sfi_ray.review.gate import Limit, failed_cells
from sfi_ray.text import MOST_LINE, MOST_NAME, counted, printable


def assert_not_fooled(
    model: Any,
    data: str | DatasetSpec | None = None,
    *,
    k: int | Sequence[int] = (1, 5),
    backgrounds: str | Sequence[str] | None = None,
    max_evaluations: int = 200,
    num_classes: int | None = None,
    threshold: float = StandardGrid.threshold,
    fail_above: float = 0.0,
    gradients: bool = True,
    seed: int = 0,
) -> None:
    """Asserts that no more than a share of a classifier's classes is fooled.

    It audits the classifier in this process, without Ray, and keeps no file. The same arguments give the same outcome.
    Where the data set has images, it refuses a classifier whose accuracy on them is near chance.

    Args:
        model: What ``sfi_ray.launch(classifiers=...)`` takes: a `Classifier`, a module that takes images in [0, 1] and
            gives logits, a pair of a model and its image processor, or the name of a network of torchvision or timm.
        data: Data set with the image size and the class names, as ``sfi-ray audit --data`` takes it, or a
            `DatasetSpec`. A `Classifier` needs none.
        k: Numbers of pixels that may be altered. The largest is judged; a class that fewer pixels fool counts, too.
        backgrounds: Colours, by name or as ``#rrggbb``; by default those of the audit's standard grid.
        max_evaluations: Most images classified for a cell: a class, a background and a k.
        num_classes: Classes to attack, in equal steps through the list; by default all, but at most 100.
        threshold: Confidence from which a class is fooled, in (0, 1].
        fail_above: Share of the classes that may be fooled, in [0, 1], on any background.
        gradients: Whether the search may use gradients; a black box gives none.
        seed: Seed of the searches.

    Raises:
        AssertionError: More classes are fooled; the message names the cells. Or a cell failed.
        InputError: An argument, the data set or the classifier is wrong.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended the audit.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    if not 0 <= fail_above <= 1:
        raise InputError(f"fail_above is a share from 0 to 1, got {fail_above}")
    if not 0 < threshold <= 1:
        raise InputError(f"threshold is a confidence above 0 and at most 1, got {threshold}")
    ks = (k,) if isinstance(k, int) else tuple(k)
    dataset = _dataset(model, data)
    with tempfile.TemporaryDirectory(prefix="sfi_ray_") as folder:
        job = audit_job(
            ClassifierSpec(name="model"),
            dataset,
            dataset_info(dataset),
            k=ks,
            backgrounds=(backgrounds,) if isinstance(backgrounds, str) else backgrounds,
            budget=max_evaluations,
            num_classes=num_classes,
            seeds=1,
            gradients=gradients,
            threshold=threshold,
            seed=seed,
            output=folder,
        )
        done = audit(job, classifiers={"model": model}, in_process=True)
        message = _problem(done, Limit(fail_above, max(ks)))
    if message is not None:
        raise AssertionError(message)


def _dataset(model: Any, data: str | DatasetSpec | None) -> DatasetSpec:
    """Returns the data set of a classifier: the one that is named, or a description of a `Classifier`'s images.

    Raises:
        InputError: None is named, and the model does not know its images.
    """
    if isinstance(data, DatasetSpec):
        return data
    if data is not None:
        return parse_dataset(data)
    if not isinstance(model, Classifier):
        raise InputError(
            "the image size and the class names of the model are unknown; give data, such as 'cifar10' or "
            "DatasetSpec(name='x', shape=(3, 32, 32), class_names=['cat', 'dog'])"
        )
    names = tuple(f"class {index}" for index in range(model.num_classes))
    return DatasetSpec(name="images", shape=model.input_shape, class_names=names)


def _problem(done: AuditOutcome, limit: Limit) -> str | None:
    """Returns what an audit found wrong, with its cells; None where the limit holds.

    Raises:
        KeyboardInterrupt: The audit was interrupted.
    """
    if done.scorecard is None:
        raise KeyboardInterrupt
    card = done.scorecard
    name = printable(card.model.name, MOST_NAME)
    if failed := failed_cells(card):
        reasons = done.run.table(["error"], ds.field("stop_reason") == "failed")["error"]
        return f"'{name}': {failed}, so nothing is known of them: {printable(reasons[0].as_py(), MOST_LINE)}"
    excess = limit.excess(card.share(limit.k))
    if excess is None:
        return None
    columns = ["target_class", "background", "k", "confidence"]
    cells = done.run.table(columns, ds.field("fooled")).to_pylist()
    classes = [f"class {index} ({printable(one, MOST_NAME)})" for index, one in enumerate(done.run.record.class_names)]
    lines = [
        f"  {classes[cell['target_class']]} on {cell['background']}, k = {cell['k']}: "
        f"confidence {cell['confidence']:.1%}"
        for cell in sorted(cells, key=lambda cell: -cell["confidence"])
    ]
    most = 20
    more = [f"  and {len(lines) - most:,} more"] if len(lines) > most else []
    heading = f"{counted(len(lines), 'cell')} of {card.costs.cells:,} reached the threshold {card.grid.threshold}:"
    return "\n".join([f"'{name}': {excess}", heading, *lines[:most], *more])
