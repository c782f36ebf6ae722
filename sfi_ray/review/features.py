"""Compares features of SFIs, natural images and single colours at layers of a network (Section 5.3, Figure 7).

Shapes: N natural images, M SFIs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from sfi_ray.data import dataset_info, load_labels
from sfi_ray.errors import InputError
from sfi_ray.models import Classifier
from sfi_ray.review.feature_space import FeatureMap
from sfi_ray.review.layer_features import (
    FEATURES,
    Closeness,
    FeatureSettings,
    LayerFeatures,
    NaturalRows,
    Sfis,
    blank,
    first_of_each,
)
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.scoring import batch_rows, device_of
from sfi_ray.store.rebuild import IMAGE_COLUMNS, rebuild_images
from sfi_ray.store.run import Run
from sfi_ray.store.whole_folder import whole_folder
from sfi_ray.tables import Column, ResultTable, count, percent
from sfi_ray.text import counted, safe_name


@dataclass(frozen=True, slots=True)
class Compared:
    """A comparison of features.

    Attributes:
        closeness: For each classifier and layer, first all classes together, then each class.
        broken: Part files that could not be read and are left out, with the reason.
    """

    closeness: list[Closeness]
    broken: dict[str, str]


def compare_features(
    run: Run,
    settings: FeatureSettings,
    folder: Path,
    draw: Callable[[FeatureMap], Mapping[str, bytes]],
    *,
    device: str = "auto",
    overwrite: bool = False,
    classifiers: Mapping[str, Classifier] | None = None,
    allow_code: bool = False,
) -> Compared:
    """Compares features, and writes coordinates, numbers and figures into a folder that appears whole or not at all.

    Args:
        run: The run, finished or not; its data set must have images.
        settings: What to compare.
        folder: The folder to make.
        draw: Draws a map, and returns the pictures by their suffixes.
        device: ``auto``, ``cpu`` or ``cuda``.
        overwrite: Whether to replace an earlier comparison.
        classifiers: Classifiers that were given in code at the launch and are not in the folder, by name.
        allow_code: Whether to call the functions that the run's record names as factories of classifiers.

    Raises:
        InputError: A layer, classifier, background or k does not exist; SFIs or natural images are missing; or the
            folder exists.
        StorageError: The folder cannot be written.
        ResourceError: There is no such device.
    """
    chosen = _chosen_classifiers(run, settings)
    natural = _natural_images(run, settings)
    networks = RunClassifiers(run, classifiers, device_of(device), allow_code=allow_code)
    broken: dict[str, str] = {}
    layers: list[LayerFeatures] = []
    sfis = {name: _sfis(run, name, settings, broken) for name in chosen}
    manifest_name = "features.json"
    with whole_folder(folder, marker=manifest_name, overwrite=overwrite) as temporary:
        for name in chosen:
            for layer in settings.layers:
                networks[name].features(blank(networks[name]), layer)  # finds a wrong name before any work
        with pq.ParquetWriter(temporary / "features.parquet", FEATURES, compression="zstd") as writer:
            for name in chosen:
                for layer in settings.layers:
                    found = LayerFeatures(run, networks[name], layer, natural, sfis[name], settings)
                    found.compute(temporary)
                    layers.append(found)
                    writer.write_table(found.rows())
        used = set[str]()
        for found in layers:
            stem = safe_name(f"{found.classifier.name}_{found.layer}")
            while stem.casefold() in used:
                stem += "_"
            used.add(stem.casefold())
            for suffix, content in draw(found.figure()).items():
                (temporary / f"{stem}{suffix}").write_bytes(content)
        closeness = [one for found in layers for one in found.closeness()]
        (temporary / "neighbours.csv").write_text(closeness_table(closeness, settings).to_csv(), "utf-8")
        (temporary / "neighbours.md").write_text(closeness_table(closeness, settings).to_markdown(), "utf-8")
        manifest = {
            "run": run.record.job.name,
            "dataset": run.record.dataset,
            "split": settings.split,
            "num_natural": len(natural.rows),
            "num_neighbours": settings.num_neighbours,
            "layers": [found.described() for found in layers],
            "left_out": broken,
        }
        (temporary / manifest_name).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return Compared(closeness, broken)


def closeness_table(closeness: Sequence[Closeness], settings: FeatureSettings) -> ResultTable:
    """Returns a table of how near SFIs lie to natural images of their class."""
    columns = [
        Column("classifier", "classifier", is_text=True),
        Column("layer", "layer", is_text=True),
        Column("class_name", "class", is_text=True),
        Column("num_sfis", "SFIs", count),
        Column("share", "SFIs %", percent),
        Column("chance", "by chance %", percent),
        Column("natural_share", "natural %", percent),
        Column("num_natural", "natural images", count),
    ]
    rows = [[getattr(one, column.name) for column in columns] for one in closeness]
    notes = [
        f"SFIs %: share of the target class among the {settings.num_neighbours} nearest natural images of each SFI. "
        "by chance %: its share among all natural images. natural %: as SFIs %, for natural images of the class.",
    ]
    return ResultTable("Natural neighbours of SFIs", columns, rows, notes)


def _chosen_classifiers(run: Run, settings: FeatureSettings) -> list[str]:
    names = [record.name for record in run.record.classifiers]
    for name in settings.classifiers:
        if name not in names:
            raise InputError(f"'{run.folder.location}' has no classifier '{name}', only {', '.join(names)}")
    if settings.num_neighbours < 1:
        raise InputError(f"the number of neighbours is {settings.num_neighbours}; give at least 1")
    return [name for name in names if not settings.classifiers or name in settings.classifiers]


def _natural_images(run: Run, settings: FeatureSettings) -> NaturalRows:
    """Chooses natural images by their labels, without decoding them.

    Raises:
        InputError: The data set has no images, or not those of the run.
    """
    spec, record = run.job.dataset, run.record
    info = dataset_info(spec)
    if info.class_names != record.class_names or info.shape != record.input_shape:
        raise InputError(
            f"data set '{info.name}' no longer has the classes or image size that '{run.folder.location}' was launched "
            "with; restore its files"
        )
    labels = load_labels(spec, settings.split).numpy()
    rows = first_of_each(labels, settings.num_natural or len(labels))
    if len(rows) <= settings.num_neighbours:
        raise InputError(
            f"{len(rows)} natural images are too few for {counted(settings.num_neighbours, 'neighbour')} of each "
            "image; lower "
            "--neighbours, or raise --natural"
        )
    return NaturalRows(rows, labels[rows])


def _sfis(run: Run, classifier: str, settings: FeatureSettings, broken: dict[str, str]) -> Sfis:
    """Reads the SFIs of a classifier that are compared: those of highest confidence of each class."""
    wanted = ds.field("confidence").is_valid() & (ds.field("classifier") == classifier)
    if settings.only_fooled:
        wanted = wanted & ds.field("fooled")
    if settings.backgrounds:
        wanted = wanted & ds.field("background").isin(list(settings.backgrounds))
    if settings.ks:
        wanted = wanted & ds.field("k").isin(pa.array(settings.ks, pa.int32()))
    size = batch_rows(run.record.input_shape)
    best: pa.Table | None = None
    for table in run.batches(["cell_index", "target_class", "confidence"], size, wanted, broken.__setitem__):
        best = table if best is None else pa.concat_tables([best, table])
        if settings.num_sfis:
            best = _highest(best, settings.num_sfis)
    if best is None:
        left_out = "".join(f"; {name} cannot be read: {text}" for name, text in broken.items())
        limits = {"--fooled": settings.only_fooled, "--background": settings.backgrounds, "--k": settings.ks}
        given = ", ".join(name for name, value in limits.items() if value)
        mend = f"that matches {given}; leave out an option" if given else "yet; launch its job first"
        raise InputError(f"'{run.folder.location}' has no image of '{classifier}' {mend}{left_out}")
    cells = pc.field("cell_index").isin(best["cell_index"].combine_chunks())
    columns = ["cell_id", "target_class", *IMAGE_COLUMNS]
    table = pa.concat_tables(run.batches(columns, size, wanted & cells, broken.__setitem__))
    return Sfis(rebuild_images(table), table["target_class"].to_numpy().astype(np.int64), table["cell_id"].to_pylist())


def _highest(table: pa.Table, number: int) -> pa.Table:
    """Keeps the `number` rows of each class with the highest confidence; among equals, those that come first."""
    confidence, classes = table["confidence"].to_numpy(), table["target_class"].to_numpy()
    order = np.argsort(-confidence, kind="stable")
    return table.take(np.sort(order[first_of_each(classes[order], number)]))
