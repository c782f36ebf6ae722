"""One classifier, searched for every k on some backgrounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sfi_ray.attacks.settings import AttackSettings
from sfi_ray.attacks.verify import Scored
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.models import Classifier
from sfi_ray.types import Background, Finding, TracePoint


def sweep(
    classifier: Classifier,
    settings: AttackSettings,
    *,
    backgrounds: Sequence[Background],
    target_classes: Sequence[int],
    ks: Sequence[int],
    seed: int = 0,
) -> list[Finding]:
    """Searches every k on every background, and stops only at a confidence that the settings name.

    The result of a k is never worse than that of a smaller one, whose image also has at most k altered pixels.

    Args:
        classifier: The attacked classifier.
        settings: Settings of the attack.
        backgrounds: The single colours.
        target_classes: Indices of the classes to be predicted.
        ks: Numbers of pixels that may be altered, each at least 1.
        seed: Seed of every random draw.

    Returns:
        A finding for each background, k and class, in this order, the classes fastest.
    """
    grid = Grid(
        classifiers=(GridClassifier(classifier.name, classifier.fingerprint),),
        backgrounds=tuple(backgrounds),
        target_classes=tuple((target, str(target)) for target in target_classes),
        ks=tuple(ks),
        replicates=1,
        seed=seed,
        method=settings.model_dump(mode="json"),
    )
    cells = list(grid.cells(range(len(grid))))
    events = settings.build().search(classifier, cells, threshold=1.0)
    findings = {event.cell.index: event for event in events if isinstance(event, Finding)}
    best: dict[tuple[Background, int], Scored] = {}
    for cell in sorted(cells, key=lambda cell: cell.k):
        found = Scored.of(findings[cell.index])
        if found is None:
            continue
        kin = cell.background, cell.target_class
        best[kin] = found.or_better(best.get(kin, found))
        if best[kin] is not found:
            findings[cell.index] = _with(findings[cell.index], best[kin])
    return [findings[cell.index] for cell in cells]


def _with(finding: Finding, known: Scored) -> Finding:
    """Returns a finding with a better image that was known before the search."""
    verdict = known.verdict
    return replace(
        finding,
        fooled=verdict.fooled,
        confidence=verdict.confidence,
        predicted_class=verdict.predicted_class,
        predicted_confidence=verdict.predicted_confidence,
        pixels=known.pixels,
        trace=tuple(
            TracePoint(point.evaluations, max(point.confidence, verdict.confidence)) for point in finding.trace
        ),
    )
