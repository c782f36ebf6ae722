"""Transfer: the answers of other classifiers to a run's images (Section 5.8, Table 18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfi_ray.store.rebuild import IMAGE_COLUMNS
from sfi_ray.tables import Column, ResultTable, count, percent
from sfi_ray.text import NOTHING

COLUMNS = (
    *("cell_id", "cell_index", "classifier", "classifier_fingerprint", "background", "target_class", "target_name"),
    *("k", "replicate", "confidence", *IMAGE_COLUMNS),
)
"""The columns of a run that a transfer needs."""

TRANSFERS = pa.schema(
    [
        ("cell_id", pa.string()),
        ("cell_index", pa.int64()),
        ("source", pa.string()),
        ("source_fingerprint", pa.string()),
        ("destination", pa.string()),
        ("destination_fingerprint", pa.string()),
        ("background", pa.string()),
        ("target_class", pa.int32()),
        ("target_name", pa.string()),
        ("k", pa.int32()),
        ("replicate", pa.int32()),
        ("source_confidence", pa.float32()),
        ("destination_confidence", pa.float32()),
        ("destination_predicted_class", pa.int32()),
        ("destination_predicted_confidence", pa.float32()),
        ("fooled_source", pa.bool_()),
        ("fooled_destination", pa.bool_()),
        ("transfers", pa.bool_()),
    ]
)
"""The data set of a transfer: one row for each image and destination."""


def transfer_rows(
    table: pa.Table, probabilities: NDArray[np.float32], destination: str, fingerprint: str, threshold: float
) -> pa.Table:
    """Returns one classifier's answers to some images, as a table of `TRANSFERS`.

    Args:
        table: N rows of the run with `COLUMNS`.
        probabilities: Probabilities of all classes, ``(N, num_classes)``.
        destination: Name of the classifier.
        fingerprint: Its fingerprint.
        threshold: Confidence from which an image fools, in (0, 1].
    """
    size = table.num_rows
    confidence = probabilities[np.arange(size), table["target_class"].to_numpy()]
    # As in the verification of images, a threshold of 0.9 means the nearest float32.
    limit = np.float32(threshold)
    fooled_source, fooled_destination = table["confidence"].to_numpy() >= limit, confidence >= limit
    predicted = np.nan_to_num(probabilities, nan=-1.0).argmax(axis=1)  # NaN would win otherwise
    columns = {
        **{name: table[name] for name in ("cell_id", "cell_index", "background", "target_class", "target_name", "k")},
        "replicate": table["replicate"],
        "source": table["classifier"],
        "source_fingerprint": table["classifier_fingerprint"],
        "destination": pa.array([destination] * size, pa.string()),
        "destination_fingerprint": pa.array([fingerprint] * size, pa.string()),
        "source_confidence": table["confidence"],
        "destination_confidence": pa.array(confidence),
        "destination_predicted_class": pa.array(predicted.astype(np.int32)),
        "destination_predicted_confidence": pa.array(probabilities[np.arange(size), predicted]),
        "fooled_source": pa.array(fooled_source),
        "fooled_destination": pa.array(fooled_destination),
        "transfers": pa.array(fooled_source & fooled_destination),
    }
    return pa.table([columns[name] for name in TRANSFERS.names], schema=TRANSFERS)


@dataclass(slots=True)
class Count:
    """How many images of a source fool a destination as well.

    Attributes:
        images: Images that were re-scored.
        own: Those that fool the source.
        both: Those that fool both.
    """

    images: int = 0
    own: int = 0
    both: int = 0

    @property
    def ratio(self) -> float | None:
        """Share of images that fool both among those that fool the source; None without such images."""
        return self.both / self.own if self.own else None


class Counts:
    """Counts transfers by source, k and destination."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int, str], Count] = {}

    def add(self, rows: pa.Table) -> None:
        """Adds rows of schema `TRANSFERS`."""
        columns = (rows[name].to_pylist() for name in ("source", "k", "destination", "fooled_source", "transfers"))
        for source, k, destination, is_own, is_both in zip(*columns, strict=True):
            counted = self._counts.setdefault((source, k, destination), Count())
            counted.images += 1
            counted.own += is_own
            counted.both += is_both

    def of(self, source: str, k: int, destination: str) -> Count:
        """Returns the count of one source, k and destination."""
        return self._counts.get((source, k, destination), Count())

    @property
    def sources(self) -> list[tuple[str, int]]:
        """Sources and k, in the order of their first rows."""
        return list(dict.fromkeys((source, k) for source, k, _ in self._counts))

    @property
    def destinations(self) -> list[str]:
        """Destinations, in the order of their first rows."""
        return list(dict.fromkeys(destination for _, _, destination in self._counts))


def matrix_table(counts: Counts, threshold: float) -> ResultTable:
    """Returns counts in the form of Table 18: a row for each source and k, a column for each destination."""
    columns = [
        Column("source", "source", is_text=True),
        Column("k", "k"),
        Column("images", "images", count),
        Column("own", "own", count),
        *(Column(name, name, _entry) for name in counts.destinations),
    ]
    rows: list[Sequence[object]] = []
    for source, k in counts.sources:
        entries = [counts.of(source, k, destination) for destination in counts.destinations]
        rows.append((source, k, entries[0].images, entries[0].own, *entries))
    level = f"{100 * threshold:g} %"
    notes = [f"own: images with a confidence of at least {level} through their source."]
    notes += [f"Under a destination: images with at least {level} through both, and their share of own."]
    return ResultTable("Images that fool other classifiers, too", columns, rows, notes)


def counts_table(counts: Counts) -> ResultTable:
    """Returns counts with a row for each source, k and destination."""
    names = ("source", "k", "destination", "images", "own", "both", "ratio")
    columns = [Column(name, name, percent if name == "ratio" else str) for name in names]
    rows = []
    for source, k in counts.sources:
        for destination in counts.destinations:
            found = counts.of(source, k, destination)
            rows.append((source, k, destination, found.images, found.own, found.both, found.ratio))
    return ResultTable("Transfers", columns, rows)


def _entry(found: Count) -> str:
    share = NOTHING if found.ratio is None else f"{found.ratio:.2f}"
    return f"{found.both:,} ({share})"
