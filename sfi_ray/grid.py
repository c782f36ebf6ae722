"""The grid of a job: every cell by its ordinal, made when it is needed.

Cells are ordered by classifier, background, k, replicate and target class, the last one fastest, so that the cells
which can share work stand side by side. Nothing here grows with the number of cells.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sfi_ray.types import Background, Cell


@dataclass(frozen=True, slots=True)
class GridClassifier:
    """A classifier as the grid knows it.

    Attributes:
        name: Its name in results.
        fingerprint: Hash of its weights.
    """

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class GridImage:
    """A natural image as the grid knows it.

    Attributes:
        target_class: Index of its class.
        digest: Hash of its pixels.
    """

    target_class: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The cells of a job.

    Attributes:
        classifiers: The attacked classifiers.
        backgrounds: The single colours.
        target_classes: Index and name of every class to be predicted.
        ks: Numbers of altered pixels, or None when every replicate draws its own from `k_range`.
        k_range: Lowest and highest k to draw, both included; used when `ks` is None.
        replicates: Repetitions of every cell.
        seed: The job's seed.
        method: Everything else that decides an outcome: attack and its settings, precision, image size.
        images: Natural images to imitate. Where there are some, they take the place of the target classes on the
            grid's last axis; the class of each is one of `target_classes`.
    """

    classifiers: tuple[GridClassifier, ...]
    backgrounds: tuple[Background, ...]
    target_classes: tuple[tuple[int, str], ...]
    ks: tuple[int, ...] | None
    k_range: tuple[int, int] = (1, 1)
    replicates: int
    seed: int
    method: dict[str, Any]
    images: tuple[GridImage, ...] = ()

    def __len__(self) -> int:
        return len(self.classifiers) * self.cells_per_classifier

    def block(self, *, shares_classes: bool, shares_ks: bool) -> int:
        """Returns how many neighbouring cells must not be parted.

        Args:
            shares_classes: Whether the attack searches the classes of a background, replicate and value of the k axis
                together.
            shares_ks: Whether it also goes from one k to the next.
        """
        if shares_ks:
            return self.num_ks * self.replicates * self.num_targets
        return self.num_targets if shares_classes else 1

    @property
    def num_ks(self) -> int:
        """Values of the k axis; a drawn k is one value."""
        return 1 if self.ks is None else len(self.ks)

    @property
    def num_groups(self) -> int:
        """Groups: the cells of one classifier, background and k, which one forward pass can serve."""
        return len(self.classifiers) * len(self.backgrounds) * self.num_ks

    @property
    def num_targets(self) -> int:
        """Points of the last axis: natural images where there are some, else target classes."""
        return len(self.images) or len(self.target_classes)

    @property
    def cells_per_classifier(self) -> int:
        """Cells of each classifier; they are contiguous."""
        return len(self.backgrounds) * self.num_ks * self.replicates * self.num_targets

    @property
    def max_k(self) -> int:
        """The largest k of any cell."""
        return self.k_range[1] if self.ks is None else max(self.ks)

    def cells(self, indices: Sequence[int] | range) -> Iterator[Cell]:
        """Yields the cells with these ordinals, in this order."""
        prefix: tuple[tuple[int, int, int], Any] | None = None
        names = dict(self.target_classes)
        for index in indices:
            rest, target = divmod(index, self.num_targets)
            rest, replicate = divmod(rest, self.replicates)
            group = rest
            rest, k_index = divmod(rest, self.num_ks)
            classifier_index, background_index = divmod(rest, len(self.backgrounds))
            classifier = self.classifiers[classifier_index]
            background = self.backgrounds[background_index]
            image = self.images[target] if self.images else None
            target_class = image.target_class if image else self.target_classes[target][0]
            k = self._draw_k(background, target_class, replicate) if self.ks is None else self.ks[k_index]
            key = (group, k, replicate)
            if prefix is None or prefix[0] != key:
                prefix = key, self._hash_of(classifier, background, k, replicate)
            digest = prefix[1].copy()
            digest.update(target_class.to_bytes(4, "little"))
            if image:
                digest.update(image.digest.encode())
            cell_id = digest.hexdigest()[:32]
            yield Cell(
                index=index,
                cell_id=cell_id,
                classifier=classifier.name,
                background=background,
                target_class=target_class,
                target_name=names[target_class],
                k=k,
                replicate=replicate,
                seed=derive_seed(self.seed, cell_id),
                image=target if image else None,
            )

    def _hash_of(self, classifier: GridClassifier, background: Background, k: int, replicate: int) -> Any:
        """Hashes everything but the target class, in a form that no two different cells share."""
        described = {
            "classifier": classifier.fingerprint,
            "background": background.value,
            "k": k,
            "replicate": replicate,
            "method": self.method,
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True, separators=(",", ":")).encode())

    def _draw_k(self, background: Background, target_class: int, replicate: int) -> int:
        """Draws k uniformly; the same for every classifier, so that they can be compared pairwise."""
        low, high = self.k_range
        text = f"k|{background.value}|{target_class}|{replicate}"
        return low + derive_seed(self.seed, text) % (high - low + 1)


def derive_seed(seed: int, text: str) -> int:
    """Derives an independent seed in [0, 2**63) from a seed and a text."""
    digest = hashlib.sha256(f"{seed}|{text}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class Shard:
    """A contiguous part of the grid, of one classifier: the unit of scheduling.

    Attributes:
        start: Ordinal of the first cell.
        stop: Ordinal behind the last cell.
        classifier: Name of the classifier.
    """

    start: int
    stop: int
    classifier: str

    def __len__(self) -> int:
        return self.stop - self.start


def num_shards(grid: Grid, cells_per_shard: int, block: int = 1) -> int:
    """Returns how many shards of one size all classifiers have.

    Args:
        grid: The grid.
        cells_per_shard: Cells of a shard at most, but never less than `block`.
        block: Cells that must not be parted.
    """
    step = max(block, cells_per_shard // block * block)
    return len(grid.classifiers) * -(-grid.cells_per_classifier // step)


def whole_blocks(indices: Sequence[int], block: int) -> Sequence[int]:
    """Returns the ordinals of all cells that must not be parted from some cells, ascending.

    Args:
        indices: Ordinals of cells, ascending.
        block: How many neighbouring cells must not be parted.
    """
    if block == 1:
        return indices
    blocks = sorted({index // block for index in indices})
    return [index for number in blocks for index in range(number * block, (number + 1) * block)]
