"""Features at one layer of one classifier: components of SFIs, natural images and single colours, and neighbours.

Natural images are read a few at a time, so that memory does not grow with their number. Only their labels, two
coordinates each, and features up to half a gibibyte stay in memory.

Shapes: N natural images, M SFIs, S single colours, B images of a part, D features of an image at the layer, H height,
W width, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sklearn.decomposition import IncrementalPCA

from sfi_ray.data import stream_rows
from sfi_ray.errors import InputError
from sfi_ray.images import NAMED_COLOURS, parse_background
from sfi_ray.models import Classifier
from sfi_ray.report.sheets.feature_map import FeatureMap
from sfi_ray.review.nearest import Nearest, share_of_class
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


class PrincipalFit:
    """Fits principal components to parts of any size, even parts that are too small on their own.

    Args:
        num_images: Number of all images.
        num_features: Features of an image.
        most_components: Most components of the incremental fit. Two are used; more make these two more exact.
    """

    def __init__(self, num_images: int, num_features: int, most_components: int = 10) -> None:
        self._components = max(1, min(most_components, num_images, num_features))
        self._pca = IncrementalPCA(n_components=self._components)
        self._waiting = np.zeros((0, num_features), np.float32)

    def add(self, features: NDArray[np.float32], *, is_last: bool = False) -> None:
        """Adds features, ``(B, D)``. It holds back enough features for the last part."""
        joined = np.concatenate([self._waiting, features])
        ready = len(joined) if is_last else len(joined) - self._components
        if ready >= self._components:
            self._pca.partial_fit(joined[:ready])
            joined = joined[ready:]
        self._waiting = joined

    def transform(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Returns the first two coordinates, ``(B, 2)``; 0 where there is only one feature."""
        placed = np.zeros((len(features), 2))
        if len(features):
            coordinates = self._pca.transform(features)[:, :2]
            placed[:, : coordinates.shape[1]] = coordinates
        return placed

    @property
    def explained(self) -> tuple[float, float]:
        """Shares of the variance along the first two coordinates."""
        ratios = [0.0 if math.isnan(ratio) else float(ratio) for ratio in self._pca.explained_variance_ratio_[:2]]
        return (*ratios, 0.0)[0], (*ratios, 0.0)[1]


class LayerFeatures:
    """Features of all images at one layer of one classifier."""

    _kept_bytes: ClassVar[int] = 1 << 29
    """Most bytes of features of natural images that are kept for the second pass."""
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
        self._kept: list[NDArray[np.float32]] | None = None

    def compute(self) -> None:
        """Fits the components, computes the coordinates of every image, and finds the neighbours."""
        height, width, channels = self._sfis.images.shape[1:]
        colours = np.empty((len(self.colours), height, width, channels), np.uint8)
        colours[:] = np.array([value for _, value in self.colours], np.uint8)[:, None, None, :]
        num_images = len(self._natural.rows) + len(self._sfis.images) + len(colours)
        fit = PrincipalFit(num_images, self.num_features)
        keeps = len(self._natural.rows) * self.num_features * 4 <= self._kept_bytes
        kept: list[NDArray[np.float32]] = []
        for features in self._natural_features():
            fit.add(features)
            if keeps:
                kept.append(features)
        if keeps:
            self._kept = kept
        for features in self._features_of(self._sfis.images):
            fit.add(features)
        at_colours = np.concatenate(list(self._features_of(colours)))
        fit.add(at_colours, is_last=True)
        self.explained = fit.explained
        self.at_colours = fit.transform(at_colours)
        self.at_sfis = np.concatenate([fit.transform(part) for part in self._features_of(self._sfis.images)])
        self.at_natural = np.zeros((len(self._natural.rows), 2))
        self._neighbours(fit)
        self._kept = None

    def _neighbours(self, fit: PrincipalFit) -> None:
        """Counts the neighbours; many queries take several passes over the natural images."""
        num_sfis = len(self._sfis.images)
        classes = np.concatenate([self._sfis.classes, self._natural.labels[self._asked]])
        own = np.concatenate([np.full(num_sfis, -1), self._asked])
        shares = np.full(len(classes), np.nan)
        step = max(1, self._query_bytes // (4 * self.num_features))
        for start in range(0, len(classes), step):
            part = slice(start, min(start + step, len(classes)))
            nearest = Nearest(self._queries(part), self._settings.num_neighbours, own[part])
            first = 0
            for features in self._natural_features():
                nearest.add(features, first)
                if start == 0:
                    self.at_natural[first : first + len(features)] = fit.transform(features)
                first += len(features)
            shares[part] = share_of_class(nearest.images, self._natural.labels, classes[part])
        self.sfi_shares, self._natural_shares = shares[:num_sfis], shares[num_sfis:]

    def _queries(self, part: slice) -> NDArray[np.float32]:
        """Computes features of queries: SFIs first, then natural images."""
        num_sfis = len(self._sfis.images)
        parts = [np.zeros((0, self.num_features), np.float32)]
        parts += self._features_of(self._sfis.images[part.start : min(part.stop, num_sfis)])
        asked = self._asked[max(0, part.start - num_sfis) : max(0, part.stop - num_sfis)]
        first = 0
        for features in self._natural_features() if len(asked) else ():
            here = asked[(asked >= first) & (asked < first + len(features))] - first
            parts.append(features[here])
            first += len(features)
        return np.concatenate(parts)

    @property
    def _step(self) -> int:
        """Images whose features are held together, in whole micro-batches."""
        batch = self.classifier.micro_batch
        return batch * max(1, self._part_bytes // (4 * batch * self.num_features))

    def _natural_features(self) -> Iterator[NDArray[np.float32]]:
        if self._kept is not None:
            yield from self._kept
            return
        rows: Any = self._natural.rows
        images = stream_rows(self._run.job.dataset, self._settings.split, rows, self._step, "crop")
        for part in _regrouped(images, self._step):
            yield self._features(part.to(self.classifier.device).to(torch.float32) / 255.0)

    def _features_of(self, images: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        for start in range(0, len(images), self._step):
            yield self._features(as_input(images[start : start + self._step], self.classifier))

    def _features(self, images: torch.Tensor) -> NDArray[np.float32]:
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
    for name, rgb in NAMED_COLOURS.items():
        if channels == 3 or len(set(rgb)) == 1:
            found.setdefault(parse_background(name, channels).value, name)
    return [(name, value) for value, name in found.items()]


def _mean(values: NDArray[np.float64]) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _regrouped(parts: Iterator[torch.Tensor], size: int) -> Iterator[torch.Tensor]:
    """Regroups parts of images of any size into parts of one size; the last one may be shorter."""
    waiting: list[torch.Tensor] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting = [joined[size:]]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


def blank(classifier: Classifier) -> torch.Tensor:
    """Returns one black image for a classifier, ``(1, C, H, W)``."""
    return torch.zeros((1, *classifier.input_shape), device=classifier.device)


def first_of_each(labels: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Returns the ascending places of the first `number` of each label.

    Args:
        labels: ``(N,)``.
        number: Most places of each label.
    """
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], labels[order])
    places: NDArray[np.int64] = np.sort(order[np.arange(len(order)) - starts < number])
    return places
