"""Cells of the toy classifiers, and searching them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from sfi_ray.attacks import Attack, AttackContext, CheckpointStore, Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier, GridImage
from sfi_ray.models import Classifier
from sfi_ray.types import Background, Cell, Finding

COLOURS = {
    1: {"black": (0,), "gray": (128,), "white": (255,)},
    3: {"black": (0, 0, 0), "gray": (128, 128, 128), "white": (255, 255, 255), "blue": (0, 0, 255)},
}


def make_cells(
    classifier: Classifier,
    *,
    ks: Sequence[int] | None = (2,),
    k_range: tuple[int, int] = (1, 1),
    backgrounds: Sequence[str] = ("black",),
    target_classes: Sequence[int] | None = None,
    replicates: int = 1,
    seed: int = 0,
    imitate: bool = False,
) -> list[Cell]:
    channels = classifier.input_shape[0]
    targets = range(classifier.num_classes) if target_classes is None else target_classes
    grid = Grid(
        classifiers=(GridClassifier(classifier.name, classifier.fingerprint),),
        backgrounds=tuple(Background(name, COLOURS[channels][name]) for name in backgrounds),
        target_classes=tuple((target, f"class {target}") for target in targets),
        ks=tuple(ks) if ks else None,
        k_range=k_range,
        replicates=replicates,
        seed=seed,
        method={},
        images=tuple(GridImage(target, f"image {target}") for target in targets) if imitate else (),
    )
    return list(grid.cells(range(len(grid))))


def natural_images(classifier: Classifier) -> torch.Tensor:
    """An image of each class of a toy: the spots that speak for it, in uneven brightness."""
    channels, height, width = classifier.input_shape
    spots = torch.arange(height * width)
    levels = 255 - spots * 37 % 120
    images = [
        torch.where(spots % classifier.num_classes == target, levels, 0) for target in range(classifier.num_classes)
    ]
    return torch.stack(images).to(torch.uint8).view(-1, 1, height, width).repeat(1, channels, 1, 1)


def surroundings_of(
    classifier: Classifier, cells: Sequence[Cell], checkpoints: CheckpointStore | None = None
) -> AttackContext:
    """Natural images for the cells that imitate one, and what keeps snapshots."""
    imitate = any(cell.image is not None for cell in cells)
    return AttackContext(natural_images(classifier) if imitate else None, checkpoints)


def events(attack: Attack, classifier: Classifier, cells: Sequence[Cell], threshold: float = 0.9):
    """Findings and ticks as they come."""
    return attack.search(classifier, cells, threshold, surroundings_of(classifier, cells))


def search(attack: Attack, classifier: Classifier, cells: Sequence[Cell], threshold: float = 0.9) -> list[Finding]:
    """Findings in the order they came."""
    return [event for event in events(attack, classifier, cells, threshold) if isinstance(event, Finding)]


def outcomes(findings: Sequence[Finding]) -> dict[str, Finding]:
    """Findings by cell, without the one value that no two searches share."""
    return {finding.cell.cell_id: replace(finding, seconds=0.0) for finding in findings}


def evaluations(attack: Attack, classifier: Classifier, cells: Sequence[Cell]) -> int:
    """Evaluations that the ticks of a search add up to."""
    return sum(event.evaluations for event in events(attack, classifier, cells) if isinstance(event, Tick))


def differential_evolution(**settings: object) -> Attack:
    return read_attack_settings({"population_size": 10, "generations": 8, **settings}).build()
