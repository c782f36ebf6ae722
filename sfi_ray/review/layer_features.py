"""Features at one layer of one classifier: components of SFIs, natural images and single colours, and neighbours.

Natural images are read a few at a time, and features lie in a temporary file, so that memory does not grow with their
number.

Shapes: N natural images, M SFIs, H height, W width, C channels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from sfi_ray.data import stream_rows
from sfi_ray.errors import InputError
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier
from sfi_ray.review.audit_job import audit_backgrounds
from sfi_ray.review.feature_space import FeatureMap, nearest_images, principal_coordinates
from sfi_ray.review.scoring import as_input
from sfi_ray.store.run import Run

FEATURES = pa.schema(
    [
        ("classifier", pa.string()),
        ("layer", pa.string()),
        ("kind", pa.string()),
        ("class_index", pa.int32()),
        ("name", pa.string()),
        ("image", pa.string()),
        ("pc1", pa.float64()),
        ("pc2", pa.float64()),
        ("share_of_class", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSettings:
    """What to compare.

    Attributes:
        layers: Names of layers, as `sfi_ray.models.features.layer_names` gives them.
        classifiers: Names of classifiers of the run; empty for all.
        split: Split of the data set that natural images are taken from.
        num_natural: Natural images of each class, the first ones of the split; 0 for all.
        num_sfis: SFIs of each class, those with the highest confidence; 0 for all.
        num_neighbours: Nearest natural images that are counted for each SFI.
        backgrounds: Backgrounds of the SFIs; empty for all.
        ks: k of the SFIs; empty for all.
        only_fooled: Whether to take only SFIs that reached the run's threshold.
    """

    layers: tuple[str, ...]
    classifiers: tuple[str, ...] = ()
    split: Literal["train", "test"] = "test"
    num_natural: int = 50
    num_sfis: int = 50
    num_neighbours: int = 10
    backgrounds: tuple[str, ...] = ()
    ks: tuple[int, ...] = ()
    only_fooled: bool = False


@dataclass(frozen=True, slots=True)
class Closeness:
    """How near the SFIs of a class lie to its natural images at a layer.

    Attributes:
        classifier: The classifier.
        layer: The layer.
        class_index: The class; None for all classes together.
        class_name: Its name.
        num_sfis: Number of its SFIs.
        share: Share of the class among the nearest natural images of its SFIs, in [0, 1]; None without SFIs.
        chance: The same share for random neighbours, which is the share of the class among all natural images.
        natural_share: The same share for natural images of the class, which are not their own neighbours.
        num_natural: Number of natural images of the class.
    """

    classifier: str
    layer: str
    class_index: int | None
    class_name: str
    num_sfis: int
    share: float | None
    chance: float
    natural_share: float | None
    num_natural: int


@dataclass(frozen=True, slots=True)
class Sfis:
    """SFIs of one classifier: images ``(M, H, W, C)``, classes ``(M,)`` and cells."""

    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    cell_ids: list[str]


@dataclass(frozen=True, slots=True)
class NaturalRows:
    """Chosen natural images: ascending rows of the split, and their classes, ``(N,)`` both."""

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


class LayerFeatures:
    """Features of all images at one layer of one classifier."""

    _query_bytes: ClassVar[int] = 1 << 29
    """About the most bytes of features of queries."""
    _part_bytes: ClassVar[int] = 1 << 25
    """About the most bytes of features of one part of a pass."""

    def __init__(
        self,
        run: Run,
        classifier: Classifier,
        layer: str,
        natural: NaturalRows,
        sfis: Sfis,
        settings: FeatureSettings,
    ) -> None:
        self._run, self._natural, self._sfis, self._settings = run, natural, sfis, settings
        self.classifier, self.layer = classifier, layer
        self.num_features = int(classifier.features(blank(classifier), layer).shape[1])
        # Natural images whose own neighbours are counted, too: of each class at most as many as its SFIs.
        most = settings.num_sfis or max(np.bincount(sfis.classes))
        asked = first_of_each(natural.labels, most)
        self._asked = asked[np.isin(natural.labels[asked], sfis.classes)]
        self.colours = _colours(run)

    def compute(self, folder: Path) -> None:
        """Finds the coordinates of every image, and the neighbours.

        Args:
            folder: Holds the features meanwhile, in a file that has no name.
        """
        num_natural, num_sfis = len(self._natural.rows), len(self._sfis.images)
        num_images = num_natural + num_sfis + len(self.colours)
        with tempfile.TemporaryFile(dir=folder) as file:
            for part in self._features():
                file.write(part.tobytes())
            file.flush()
            # Written first and mapped afterwards: a full disk would end a process that writes to a map.
            features = np.memmap(file, np.float32, "r", shape=(num_images, self.num_features))
            places, self.explained = principal_coordinates(features, self._step)
            self._share_neighbours(features)
        self.at_natural, self.at_sfis, self.at_colours = np.split(places, [num_natural, num_natural + num_sfis])

    def _share_neighbours(self, features: NDArray[np.float32]) -> None:
        """Finds the share of its class among the neighbours of every SFI and of some natural images."""
        labels, num_sfis = self._natural.labels, len(self._sfis.images)
        places = np.concatenate([len(labels) + np.arange(num_sfis), self._asked])
        own = np.concatenate([np.full(num_sfis, -1), self._asked])
        classes = np.concatenate([self._sfis.classes, labels[self._asked]])
        step = max(1, self._query_bytes // (4 * self.num_features))
        shares = []
        for start in range(0, len(places), step):
            part = slice(start, start + step)
            number = self._settings.num_neighbours
            nearest = nearest_images(features[: len(labels)], features[places[part]], number, own[part])
            shares.append((labels[nearest] == classes[part, None]).mean(axis=1))
        self.sfi_shares, self._natural_shares = np.split(np.concatenate(shares), [num_sfis])

    @property
    def _step(self) -> int:
        """Images whose features are held together, in whole micro-batches."""
        batch = self.classifier.micro_batch
        return batch * max(1, self._part_bytes // (4 * batch * self.num_features))

    def _features(self) -> Iterator[NDArray[np.float32]]:
        """Yields features of the natural images, of the SFIs and of the single colours, a part at a time."""
        rows: Any = self._natural.rows
        for natural in stream_rows(self._run.job.dataset, self._settings.split, rows, self._step, "crop"):
            yield self._features_of(natural.to(self.classifier.device).to(torch.float32) / 255.0)
        values = np.array([value for _, value in self.colours], np.uint8)[:, None, None, :]
        colours = np.broadcast_to(values, (len(values), *self._sfis.images.shape[1:]))
        for images in (self._sfis.images, colours):
            for start in range(0, len(images), self._step):
                yield self._features_of(as_input(images[start : start + self._step], self.classifier))

    def _features_of(self, images: torch.Tensor) -> NDArray[np.float32]:
        features: NDArray[np.float32] = self.classifier.features(images, self.layer).float().cpu().numpy()
        if not np.isfinite(features).all():
            raise InputError(
                f"classifier '{self.classifier.name}' gives features at layer '{self.layer}' that are not finite; "
                "choose another layer"
            )
        return features

    def closeness(self) -> list[Closeness]:
        """Returns the closeness of all classes together, and of each class with SFIs."""
        names, labels = self._run.record.class_names, self._natural.labels
        counts = np.bincount(labels, minlength=len(names))
        asked = labels[self._asked]
        found = []
        for index in (None, *np.unique(self._sfis.classes).tolist()):
            is_own = slice(None) if index is None else self._sfis.classes == index
            is_natural = slice(None) if index is None else asked == index
            classes = self._sfis.classes[is_own]
            found.append(
                Closeness(
                    classifier=self.classifier.name,
                    layer=self.layer,
                    class_index=index,
                    class_name="all" if index is None else names[index],
                    num_sfis=len(classes),
                    share=_mean(self.sfi_shares[is_own]),
                    chance=float((counts[classes] / len(labels)).mean()),
                    natural_share=_mean(self._natural_shares[is_natural]),
                    num_natural=len(labels) if index is None else int(counts[index]),
                )
            )
        return found

    def rows(self) -> pa.Table:
        """Returns a row for every image."""
        names, natural, sfis = self._run.record.class_names, self._natural, self._sfis
        natural_shares: list[float | None] = [None] * len(natural.rows)
        for image, share in zip(self._asked.tolist(), self._natural_shares.tolist(), strict=True):
            natural_shares[image] = share
        places = np.concatenate([self.at_natural, self.at_sfis, self.at_colours])
        kinds = ["natural"] * len(natural.rows) + ["sfi"] * len(sfis.classes)
        kinds += ["single_colour"] * len(self.colours)
        classes = [*natural.labels.tolist(), *sfis.classes.tolist(), *[None] * len(self.colours)]
        colours = [name for name, _ in self.colours]
        split = self._settings.split
        columns = {
            "classifier": [self.classifier.name] * len(kinds),
            "layer": [self.layer] * len(kinds),
            "kind": kinds,
            "class_index": classes,
            "name": [*(names[index] for index in classes[: len(kinds) - len(colours)]), *colours],
            "image": [*(f"{split}[{row}]" for row in natural.rows.tolist()), *sfis.cell_ids, *colours],
            "pc1": places[:, 0],
            "pc2": places[:, 1],
            "share_of_class": [*natural_shares, *self.sfi_shares.tolist(), *[None] * len(colours)],
        }
        return pa.table(columns, schema=FEATURES)

    def figure(self) -> FeatureMap:
        """Returns the content of the layer's map."""
        return FeatureMap(
            title=f"{self.classifier.name}, {self.layer}",
            class_names=self._run.record.class_names,
            natural=self.at_natural,
            natural_classes=self._natural.labels,
            sfis=self.at_sfis,
            sfi_classes=self._sfis.classes,
            colours=self.at_colours,
            colour_values=tuple(value for _, value in self.colours),
            colour_names=tuple(name for name, _ in self.colours),
            explained=self.explained,
        )

    def described(self) -> dict[str, Any]:
        """Returns the entry of the layer in the manifest."""
        overall, *_ = self.closeness()
        return {
            "classifier": self.classifier.name,
            "classifier_fingerprint": self.classifier.fingerprint,
            "layer": self.layer,
            "num_features": self.num_features,
            "num_sfis": overall.num_sfis,
            "explained_variance_ratio": list(self.explained),
            "share": overall.share,
            "chance": overall.chance,
            "natural_share": overall.natural_share,
        }


def _colours(run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """Returns the run's backgrounds and the named colours that its images can have."""
    channels = run.record.input_shape[0]
    found = {background.value: background.name for background in run.record.grid().backgrounds}
    for name in audit_backgrounds(channels):
        found.setdefault(parse_background(name, channels).value, name)
    return [(name, value) for value, name in found.items()]


def _mean(values: NDArray[np.float64]) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def blank(classifier: Classifier) -> torch.Tensor:
    """Returns one black image for a classifier, ``(1, C, H, W)``."""
    return torch.zeros((1, *classifier.input_shape), device=classifier.device)


def first_of_each(labels: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Returns the ascending places of the first `number` of each label, ``(N,)``."""
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    places: NDArray[np.int64] = np.sort(order[np.arange(len(order)) - starts < number])
    return places
