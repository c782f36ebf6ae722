"""The size of a trial of rounds, counted from its settings without training or search."""

from __future__ import annotations

from dataclasses import dataclass

from sfi_ray.job import RoundsJob
from sfi_ray.rounds.split import earlier_rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialPlan:
    """The size of a trial.

    Attributes:
        num_rounds: Number of attacked models.
        num_finals: Attacks on the last model, on other backgrounds.
        cells_per_attack: Cells of each attack; each gives one SFI at most.
        num_train: SFIs of a round that train later models.
        num_held_out: SFIs of a round that test later models.
        max_evaluations: Images classified by all attacks together if no cell stops early.
        epochs: Passes over its training images of each model, from M0; 0 where it has weights.
        max_trained: Images that all trainings pass through, counted once for each pass.
    """

    num_rounds: int
    num_finals: int
    cells_per_attack: int
    num_train: int
    num_held_out: int
    max_evaluations: int
    epochs: tuple[int, ...]
    max_trained: int


def plan_trial(trial: RoundsJob, num_classes: int, num_natural: int) -> TrialPlan:
    """Counts the size of a trial."""
    rounds = trial.rounds
    train, held_out = rounds.parts(num_classes)
    cells = rounds.per_class * num_classes
    sizes = [num_natural + train * len(earlier_rounds(number, rounds.earlier)) for number in range(rounds.number)]
    epochs = [trial.classifier.training.num_epochs(size) for size in sizes]
    if not trial.classifier.source.needs_training:
        epochs[0] = 0
    num_attacks = rounds.number + len(rounds.final_backgrounds)
    return TrialPlan(
        num_rounds=rounds.number,
        num_finals=len(rounds.final_backgrounds),
        cells_per_attack=cells,
        num_train=train,
        num_held_out=held_out,
        max_evaluations=num_attacks * cells * trial.attack.build().max_evaluations,
        epochs=tuple(epochs),
        max_trained=sum(passes * size for passes, size in zip(epochs, sizes, strict=True)),
    )
