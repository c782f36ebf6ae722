"""Deep feature inversion as a search: one gradient step of every cell in a generation (Section 3.2, Eq. 1).

A natural image is turned into an image of one colour with sparse alterations that looks the same to a layer of the
network:

    alpha* = argmin |Phi(z + alpha) - Phi(x)|^2 / |Phi(x)|^2 + lambda_sparse |alpha|_1

where x is the natural image, z the background, Phi what the layer makes of an image, and pixels lie in [0, 1]. With a
cap, k, the least altered pixels are given up little by little and the rest refined.

Shapes: N cells, K altered pixels, C channels, H rows, W columns, D features, G genes of a pixel (2 + C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from sfi_ray.search.base import Answer, Features, Gradients, LogProbs, NewCells, Query, Search, SearchSpace
from sfi_ray.search.inversion.schedule import looks_of, schedule_at
from sfi_ray.search.inversion.steps import Optimizer, Position, Sparsity, advance, keep_largest
from sfi_ray.search.philox import random_words, standard_normal
from sfi_ray.search.state import SearchState

# Stream of the random numbers that a search starts from.
_START = 0


class InversionSettings(BaseModel):
    """How features are inverted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str = Field(
        "second_to_last",
        min_length=1,
        description="Layer whose features are imitated: its name in the network, or second_to_last, what enters the "
        "last layer with weights.",
    )
    lambda_sparse: float = Field(
        1e-5, ge=0, description="Weight of the penalty on what is altered, for values in [0, 1] (Eq. 1)."
    )
    sparsity: Sparsity = Field(
        "values",
        description="What the penalty is the l1 norm of: values, as in Eq. 1, or pixels, the length of each pixel over "
        "its channels, which leaves fewer pixels.",
    )
    optimizer: Optimizer = Field(
        "proximal",
        description="proximal: Adam's steps with a soft threshold, which leaves exact zeros; adam: with the penalty's "
        "subgradient.",
    )
    steps: int = Field(300, ge=1, le=10_000_000, description="Steps of the optimiser.")
    learning_rate: float = Field(
        0.05, gt=0, le=1, description="Of the first step, for values in [0, 1]; it falls to zero along a cosine."
    )
    start_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Standard deviation of what is altered at the start, for values in [0, 1]; 0 starts from the bare "
        "background, and then every replicate is the same.",
    )
    stop_confidence: float | None = Field(
        None, gt=0, le=1, description="Stop a cell at this confidence, in (0, 1]; null goes on to the end."
    )

    @property
    def max_evaluations(self) -> int:
        """Images put through the network for a cell that is never stopped early: features, steps and looks."""
        return 1 + self.steps + len(looks_of(self.steps, has_goal=self.stop_confidence is not None))


@dataclass(frozen=True, slots=True)
class _State(SearchState):
    """The state of the cells being searched."""

    given: ClassVar[tuple[str, ...]] = (*SearchState.given, "backgrounds")

    #: In [0, 1], ``(N, C, 1, 1)``.
    backgrounds: Tensor
    #: What is altered, and the moments of the optimiser, ``(N, C, H, W)`` each.
    altered: Tensor
    first: Tensor
    second: Tensor


class FeatureInversion(Search):
    """Inverts the features of natural images; cells are admitted with the images that they imitate.

    A generation is a query for the features of the natural images of cells that have just joined, one for the gradient
    of the distance to them, and one for log-probabilities of the images that are looked at after this step.

    Args:
        space: Where candidates live; at most k pixels are altered in the end.
        settings: How features are inverted.
        device: Where tensors lie.
    """

    keeps_best: ClassVar[bool] = False

    def __init__(self, space: SearchSpace, settings: InversionSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(space, device)
        self.settings = settings
        self._looks = looks_of(settings.steps, has_goal=settings.stop_confidence is not None)
        self._sorted_looks = torch.tensor(sorted(self._looks), dtype=torch.int64, device=self.device)
        blank = torch.zeros(0, space.channels, space.height, space.width, device=self.device)
        integers = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._state = _State(integers, integers, integers, blank[:, :, :1, :1], blank, blank, blank)
        #: Of the natural images; and their squared lengths. Those of cells that have just joined are not known yet.
        self.features = torch.zeros(0, 0, device=self.device)
        self._lengths = torch.zeros(0, device=self.device)
        self._natural = blank
        self._failures: dict[int, str] = {}
        self._looking: Tensor | None = None
        self._refresh(torch.zeros(0, device=self.device))

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the present image of each cell, with as many altered pixels as allowed."""
        return self.best_of(torch.arange(self.num_cells, device=self.device))

    def best_of(self, places: Tensor) -> Tensor:
        """Returns the present images of some cells, ``(n, K, G)``; see `Search.best_of`."""
        levels = self._levels(places)
        backgrounds = (self._state.backgrounds[places] * 255.0).round()
        is_altered = (levels != backgrounds).any(dim=1).flatten(1)
        # Altered pixels first, in row-major order; the others have the background's colour and alter nothing.
        spots = (~is_altered).to(torch.uint8).argsort(dim=1, stable=True)[:, : self.space.k]
        values = levels.flatten(2).gather(2, spots.unsqueeze(1).expand(-1, self.space.channels, -1)).transpose(1, 2)
        rows = spots.div(self.space.width, rounding_mode="floor")
        where = torch.stack([rows, spots - rows * self.space.width], dim=2).to(torch.float32) + 0.5
        return torch.cat([where, values / 255.0], dim=2)

    @property
    def failures(self) -> Mapping[int, str]:
        """Why cells cannot be inverted: features or gradients that are no numbers; see `Search.failures`."""
        return self._failures

    @property
    def backward_passes(self) -> Tensor:
        """``(N,)`` int64: steps taken of each cell."""
        return self._state.generation

    def state(self) -> dict[str, Tensor]:
        """Returns what is altered and the optimiser's moments; see `Search.state`."""
        return self._state.without_given()

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        if new_cells.images is None:
            raise ValueError("deep feature inversion needs natural images")
        natural = new_cells.images.to(self.device)
        seeds = new_cells.seeds.to(self.device)
        zeros = torch.zeros_like(natural)
        backgrounds = (new_cells.backgrounds.to(self.device, torch.float32) / 255.0)[:, :, None, None]
        altered = zeros
        if self.settings.start_noise:
            words = random_words(seeds, torch.zeros_like(seeds), _START, math.prod(natural.shape[1:]))
            noise = standard_normal(words).to(torch.float32).view_as(natural)
            altered = (self.settings.start_noise * noise).maximum(-backgrounds).minimum(1.0 - backgrounds)
        joining = _State(
            seeds, new_cells.target_classes.to(self.device), torch.zeros_like(seeds), backgrounds, altered, zeros, zeros
        )
        if state is not None:
            if int(state["generation"].max()) >= self.settings.steps:
                raise ValueError("a snapshot is of a step behind the last one")
            joining = replace(joining, **state)
        self._state = self._state.join(joining)
        self._natural = torch.cat([self._natural, natural])
        self._refresh(torch.cat([self.best_log_prob, torch.full((len(seeds),), -torch.inf, device=self.device)]))

    def _retire(self, keep: Tensor) -> None:
        num_known = len(self.features)
        self._state = self._state.select(keep)
        self.features, self._lengths = self.features[keep[:num_known]], self._lengths[keep[:num_known]]
        self._natural = self._natural[keep[num_known:]]
        self._failures = {}
        self._refresh(self.best_log_prob[keep])

    def _ask(self) -> Query:
        if len(self._natural):
            owners = torch.arange(len(self.features), self.num_cells, device=self.device)
            return Query(owners, images=self._natural, wanted=Features(self.settings.layer))
        if self._looking is None:
            return self._step_query(self._going_on())
        levels = self._levels(self._looking).to(torch.float32)
        return Query(self._looking, images=levels / 255.0, wanted=LogProbs())

    def _tell(self, answer: Answer) -> None:
        if len(self._natural):
            self._take_features(answer.values)
            self.is_midway = len(self._failures) < self.num_cells
        elif self._looking is None:
            assert answer.gradients is not None
            self._step(self._going_on(), answer.values, answer.gradients)
            self.is_midway = self._looking is not None
        else:
            of_target = answer.values.gather(1, self._state.target_classes[self._looking].unsqueeze(1)).squeeze(1)
            self.best_log_prob[self._looking] = of_target.to(torch.float32)
            self._looking = None
            self.is_midway = False

    def _take_features(self, features: Tensor) -> None:
        """Takes the features of the cells that have just joined."""
        whose = f"the features of the natural image at layer {self.settings.layer!r}"
        lengths = torch.stack([row.square().sum() for row in features.double().cpu()])
        for place, length in enumerate(lengths.tolist(), start=len(self.features)):
            if not math.isfinite(length):
                self._fail(place, f"{whose} are NaN or infinite")
            elif length == 0:
                self._fail(place, f"{whose} are all zero")
        self.features = torch.cat([self.features, features]) if len(self.features) else features
        self._lengths = torch.cat([self._lengths, lengths.to(self.device).to(torch.float32)])
        self._natural = self._natural[:0]

    def _going_on(self) -> Tensor:
        """Returns the places of the cells that can be searched on."""
        places = [place for place in range(self.num_cells) if place not in self._failures]
        return torch.tensor(places, dtype=torch.int64, device=self.device)

    def _step_query(self, places: Tensor) -> Query:
        features, lengths = self.features[places], self._lengths[places]

        def distance(outputs: Tensor, part: slice) -> Tensor:
            return (outputs - features[part]).square().sum(dim=1) / lengths[part]

        images = (self._state.backgrounds[places] + self._state.altered[places]).clamp(0.0, 1.0)
        return Query(places, images=images, wanted=Gradients(distance, self.settings.layer))

    def _step(self, places: Tensor, distances: Tensor, gradients: Tensor) -> None:
        """Takes a step with cells, and notes which of them are looked at after it."""
        settings, state = self.settings, self._state
        is_bad = ~(distances.isfinite() & gradients.flatten(1).isfinite().all(dim=1))
        steps = state.generation[places].tolist()
        num_pixels = self.space.height * self.space.width
        plans = [schedule_at(step, settings.steps, num_pixels, self.space.k) for step in steps]
        backgrounds = state.backgrounds[places]
        moved = advance(
            Position(state.altered[places], state.first[places], state.second[places]),
            gradients,
            numbers=[step + 1 for step in steps],
            rates=[settings.learning_rate * plan.rate for plan in plans],
            penalties=[settings.lambda_sparse * plan.penalty for plan in plans],
            low=-backgrounds,
            high=1.0 - backgrounds,
            optimizer=settings.optimizer,
            sparsity=settings.sparsity,
        )
        altered = keep_largest(moved.altered, [plan.num_pixels for plan in plans])
        self._state = replace(
            state,
            generation=state.generation.index_add(0, places, torch.ones_like(places)),
            altered=state.altered.index_copy(0, places, altered),
            first=state.first.index_copy(0, places, moved.first),
            second=state.second.index_copy(0, places, moved.second),
        )
        for place in places[is_bad].tolist():
            self._fail(place, f"the features at layer {settings.layer!r} or their gradient became NaN or infinite")
        at = zip(places.tolist(), steps, strict=True)
        looking = [place for place, step in at if step + 1 in self._looks and place not in self._failures]
        self._looking = torch.tensor(looking, dtype=torch.int64, device=self.device) if looking else None
        self._refresh(torch.full_like(self.best_log_prob, torch.nan))

    def _fail(self, place: int, error: str) -> None:
        self._failures = {**self._failures, place: error}

    def _levels(self, places: Tensor) -> Tensor:
        """Returns 8-bit images with as many altered pixels as allowed, ``(n, C, H, W)`` float32."""
        altered = keep_largest(self._state.altered[places], [self.space.k] * len(places))
        return ((self._state.backgrounds[places] + altered) * 255.0).round().clamp(0.0, 255.0)

    def _refresh(self, best_log_prob: Tensor) -> None:
        steps = self._state.generation
        self.best_log_prob = best_log_prob
        self.generation = steps
        looks = torch.searchsorted(self._sorted_looks, steps, right=True)
        self.evaluations = (1 + steps + looks).to(torch.float64)
        self.is_exhausted = steps >= self.settings.steps
