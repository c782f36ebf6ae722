"""A search that all classes of a group share.

It is MAP-Elites (Mouret & Clune 2015) with the classes as its niches, as Nguyen, Yosinski & Clune (2015) used it. One
forward pass says how good a candidate is for every class. So each class keeps its few best candidates, its elites,
whoever they were made for, and new candidates are made from the elites of any class of the group.

Near an optimum all elites of a class are alike, and most of what they could become was tried. A class that has not
become better for long restarts, with fresh candidates; what it had is kept aside.

What a candidate shows of the pixel in which it differs from its parent is remembered for every class, and at first half
of the new candidates are made of it; see `pixel_memory`. Which operators of making candidates pay is learned
for each group; see `operator_selection`. Parts of elites are put elsewhere; see `grafting`.

With k = 1, seven of eight candidates go through all pixels at corners of the colour cube, each once for all classes.
Classes of a group may have different k; see `pixel_counts`.
A share of the candidates can follow gradients; see `guidance`.

Shapes: N cells, L elites of a cell, M candidates, K altered pixels, G genes of a pixel (2 + channels), C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from sfi_ray.search.base import Answer, Gradients, NewCells, Query, Search, SearchSpace, log_prob_of
from sfi_ray.search.map_elites.differences import difference
from sfi_ray.search.map_elites.grafting import GRAFTED_COUNTS, graft
from sfi_ray.search.map_elites.guidance import (
    GradientQueries,
    Guidance,
    gradient_candidates,
    gradient_queries,
    guidance,
)
from sfi_ray.search.map_elites.niches import candidates_per_niche, insert, selected
from sfi_ray.search.map_elites.operator_selection import (
    COPIED,
    GRAFTED,
    NO_OPERATOR,
    NUM_CHANGES,
    TOGETHER,
    changes_together,
    cumulative,
    learn,
    shares,
    usual_probabilities,
)
from sfi_ray.search.map_elites.pixel_counts import PixelCounts
from sfi_ray.search.map_elites.pixel_losses import passed_on, seen
from sfi_ray.search.map_elites.pixel_memory import (
    NO_PIXEL,
    RECALLED_COUNTS,
    Observations,
    observations,
    recall,
    remember,
)
from sfi_ray.search.map_elites.schedule import Generation, Offspring, Schedule
from sfi_ray.search.map_elites.settings import MapElitesSettings
from sfi_ray.search.map_elites.single_pixels import SinglePixels
from sfi_ray.search.map_elites.state import MapElitesState, beginning, restarted
from sfi_ray.search.map_elites.variation import (
    change_pixels,
    cross,
    fresh_candidates,
    has_copies,
    varied_counts,
)
from sfi_ray.search.philox import Draws

# What the random words of a candidate are for.
_PARENTS = 15
# Candidates of a group in one generation, at most: their numbers never meet those of the next generation.
_MOST_CANDIDATES = 1 << 24
# Elements of the gradients that are taken at once: 256 MB, for all of a group could take gigabytes.
_GRADIENT_ELEMENTS = 1 << 26


class MapElites(Search):
    """The search that the classes of a group share.

    A generation is one query for log-probabilities, after one or several for gradients where the settings want them.

    Args:
        space: Where candidates live.
        settings: What decides what is proposed.
        device: Where tensors lie.
        starts: By the seed of a cell, ``(S, K, G)``: the first candidates that are made for it, as many as its first
            generation has. What is behind the cell's own k pixels does not count.

    A toy whose first class is the surer the brighter the lower right corner is::

        >>> import torch
        >>> from sfi_ray.images import render
        >>> from sfi_ray.search import Answer, MapElites, MapElitesSettings, NewCells, SearchSpace
        >>> weights = torch.linspace(0, 1, 16).view(1, 4, 4)
        >>> cells = NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1), groups=torch.tensor([0]))
        >>> space = SearchSpace(height=4, width=4, channels=1, k=2, num_classes=2)
        >>> search = MapElites(space, MapElitesSettings(max_evaluations=500))
        >>> search.admit(cells)
        >>> while not search.is_exhausted.all():
        ...     query = search.ask()
        ...     images = render(query.genes, cells.backgrounds[query.owners], 4, 4)
        ...     logit = (images * weights).sum(dim=(1, 2, 3)) - 2
        ...     search.tell(Answer(torch.nn.functional.logsigmoid(torch.stack([logit, -logit], dim=1))))
        >>> sorted((search.best[0, :, :2].floor() @ torch.tensor([4.0, 1.0])).tolist())  # the two heaviest spots
        [14.0, 15.0]
    """

    shares_classes: ClassVar[bool] = True
    mixes_ks: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        settings: MapElitesSettings,
        device: torch.device | str = "cpu",
        starts: Mapping[int, Tensor] | None = None,
    ) -> None:
        super().__init__(space, device)
        self.settings = settings
        self._starts = starts or {}
        self._changes_together = changes_together(settings.changes_together, self.device)
        self._counts = {
            _PARENTS: 7,
            **varied_counts(space),
            **({**RECALLED_COUNTS, **GRAFTED_COUNTS} if space.k > 1 else {}),
        }
        self._single_pixels: SinglePixels | None = None
        self._operators = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._is_fresh = self._operators.bool()
        self._candidates: Tensor | None = None
        self._parents: tuple[Tensor, Tensor] | None = None
        self._schedule = Schedule(settings, space.k, self.device)
        self._made: Generation | None = None
        self._queries: GradientQueries | None = None
        self._guidance: list[Guidance] = []
        integers = torch.zeros(0, dtype=torch.int64, device=self.device)
        self._state = MapElitesState(
            seeds=integers,
            target_classes=integers,
            groups=integers,
            backgrounds=torch.zeros(0, space.channels, device=self.device),
            ks=integers,
            usual=self._usual_probabilities(integers),
            **beginning(0, settings.num_elites, space, self.device),
        )
        self._refresh()

    def state(self) -> dict[str, Tensor]:
        """Returns the elites of each cell; see `Search.state`."""
        return self._state.without_given()

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        if new_cells.groups is None:
            raise ValueError("a search that classes share needs the group of every cell")
        largest = int(new_cells.groups.bincount().max()) if len(new_cells.groups) else 0
        if largest > _MOST_CANDIDATES:
            raise ValueError(f"a group of {largest:,} cells; at most {_MOST_CANDIDATES:,} can be searched together")
        state = state or beginning(len(new_cells.seeds), self.settings.num_elites, self.space, self.device)
        ks = torch.full_like(new_cells.seeds, self.space.k) if new_cells.ks is None else new_cells.ks
        has_start = torch.tensor([seed in self._starts for seed in new_cells.seeds.tolist()], dtype=torch.bool)
        self._schedule.admit(new_cells.groups, ks, has_start, state)
        if self._schedule.has_single_pixels and self._single_pixels is None:
            self._single_pixels = SinglePixels(self.space, self.device)
        self._state = self._state.join(
            MapElitesState(
                seeds=new_cells.seeds.to(self.device),
                target_classes=new_cells.target_classes.to(self.device),
                groups=new_cells.groups.to(self.device),
                backgrounds=new_cells.backgrounds.to(self.device, torch.float32),
                ks=ks.to(self.device),
                usual=self._usual_probabilities(ks.to(self.device)),
                **state,
            )
        )
        self._refresh()

    def _usual_probabilities(self, ks: Tensor) -> Tensor:
        return usual_probabilities(self.settings.operators, ks, has_copies=has_copies(self.space, self.settings.stride))

    def _retire(self, keep: Tensor) -> None:
        self._state = self._state.select(keep)
        self._schedule.retire(keep)
        self._refresh()

    def _mark_done(self, is_done: Tensor) -> None:
        self._schedule.mark_done(is_done)
        self._state = replace(self._state, is_done=self._state.is_done | is_done)
        self._refresh()

    @property
    def backward_passes(self) -> Tensor:
        """``(N,)`` int64: images that a gradient was taken of for each cell."""
        return self._state.backward

    def _ask(self) -> Query:
        if self._queries is None and self.settings.gradient_share > 0:
            self._queries = gradient_queries(self._state, self._schedule.guided(), self.space)
        if self._queries is not None and len((part := self._next_queries()).owners):
            return Query(
                part.owners, part.genes, wanted=Gradients(log_prob_of(self._state.target_classes[part.owners]))
            )
        return self._proposals()

    def _tell(self, answer: Answer) -> None:
        self.is_midway = answer.gradients is not None
        if answer.gradients is None:
            self._learn(answer.values)
            return
        queries = self._next_queries()
        backgrounds = self._state.backgrounds[queries.owners]
        counts = PixelCounts(self._state.ks[queries.owners], self.space.k)
        self._guidance.append(guidance(answer.gradients, queries, backgrounds, self.space, counts))

    def _next_queries(self) -> GradientQueries:
        """Returns the next gradient queries, as many as are answered at once; none where all are answered."""
        assert self._queries is not None
        start, total = sum(len(known.order) for known in self._guidance), len(self._queries.owners)
        most = max(1, _GRADIENT_ELEMENTS // (self.space.channels * self.space.height * self.space.width))
        at_once = 1 << (most.bit_length() - 1)  # whole micro-batches, which are powers of two
        return self._queries.select(torch.arange(start, min(start + at_once, total), device=self.device))

    def _proposals(self) -> Query:
        """Returns the candidates of this generation."""
        if self._guidance:
            assert self._queries is not None
            is_guided = torch.zeros_like(self._state.evaluations).index_fill(0, self._queries.owners, 1)
            self._state = replace(
                self._state,
                evaluations=self._state.evaluations + is_guided,
                backward=self._state.backward + is_guided,
            )
        state = self._state
        self._made = made = self._schedule.next_generation()
        offspring = made.offspring
        # Every candidate has draws of its own: under its group's seed, by its generation and its place in the group.
        seeds = state.seeds[offspring.first]
        counters = state.generation[offspring.owners] * _MOST_CANDIDATES + offspring.place
        self._is_fresh = is_new = state.log_prob[offspring.owners, 0] == -torch.inf
        num_new = int(is_new.sum())  # waits for the device: the only time in a generation
        self._operators = torch.full_like(offspring.owners, NO_OPERATOR)
        candidates = state.genes.new_empty(len(is_new), *state.genes.shape[2:])
        if num_new < len(is_new):
            candidates, self._operators = self._varied(offspring, Draws(seeds, counters, self._counts), made.counts)
        if num_new:
            how = self.settings
            shape = how.locality, how.repeated_share, how.corner_share, how.stride
            fresh = fresh_candidates(seeds, counters, self.space, *shape, offspring.ks)
            candidates = torch.where(is_new[:, None, None], fresh, candidates) if num_new < len(is_new) else fresh
            self._operators = self._operators.masked_fill(is_new, NO_OPERATOR)
        if self._single_pixels is not None:
            candidates = self._swept(candidates, self._single_pixels, made)
        if self._guidance:
            candidates = self._gradient_proposed(candidates, made, seeds, counters)
        if self._starts:
            candidates = self._started(candidates, made)
        self._candidates = candidates = made.counts.repeat_last(candidates)
        return Query(offspring.owners, candidates)

    def _varied(self, offspring: Offspring, draws: Draws, counts: PixelCounts) -> tuple[Tensor, Tensor]:
        """Makes candidates of elites and of what is remembered, and says in which operators."""
        state, owners = self._state, offspring.owners
        self._parents, mates = self._chosen(offspring, draws)
        parents = state.genes[self._parents]
        taken_so = shares(state.gained, state.tried, state.usual, self.settings.operator_floor)
        whole = taken_so[:, NUM_CHANGES:].cumsum(dim=1)[owners]
        how = NUM_CHANGES + (draws.uniform(_PARENTS, 7)[:, 6:] >= whole).sum(dim=1)
        is_together = (how == TOGETHER).unsqueeze(1)
        changes = torch.where(is_together, self._changes_together, cumulative(taken_so[:, :NUM_CHANGES])[owners])
        crossed = cross(parents, state.genes[mates], draws, is_together, self.settings.crossover_share)
        shape = self.settings.corner_share, self.settings.stride
        candidates, operators = change_pixels(crossed, draws, self.space, changes, is_together, *shape, counts)
        if self.space.k > 1:
            credit, pixels, losses = state.credit[owners], state.pixels[owners], state.losses[self._parents]
            candidates, is_made = recall(candidates, parents, credit, pixels, losses, draws, self.space, how, counts)
            is_grafted = (how == GRAFTED) | (how == COPIED)
            grafted = graft(parents, state.genes[mates], losses, draws, self.space, how, counts)
            candidates = torch.where(is_grafted[:, None, None], grafted, candidates)
            operators = torch.where(is_made | is_grafted | is_together.squeeze(1), how, operators)
        return candidates, operators

    def _swept(self, candidates: Tensor, pixels: SinglePixels, made: Generation) -> Tensor:
        """Puts the next single pixels of each group in the place of most candidates."""
        state, first = self._state, made.offspring.first
        is_swept, before = self._schedule.swept(made)
        # Those of a group are numbered on from where its last generation ended.
        numbers, backgrounds = state.swept[first] + before, state.backgrounds[first]
        count = pixels.count(backgrounds)
        is_swept = is_swept & (numbers < count)
        single = pixels.genes(state.seeds[first], torch.minimum(numbers, count - 1), backgrounds)
        self._operators = self._operators.masked_fill(is_swept, NO_OPERATOR)
        counts = torch.zeros_like(state.swept).index_add(0, first, is_swept.to(torch.int64))
        self._state = replace(state, swept=state.swept + counts[made.offers.first])
        return torch.where(is_swept[:, None, None], single, candidates)

    def _started(self, candidates: Tensor, made: Generation) -> Tensor:
        """Puts what cells are to begin with in the place of their first candidates."""
        if not (beginners := self._schedule.beginners(made)):
            return candidates
        candidates, seeds = candidates.clone(), self._state.seeds.tolist()
        for cell, place, count in beginners:
            if seeds[cell] in self._starts:
                starts = self._starts[seeds[cell]][:count].to(candidates)
                candidates[place : place + len(starts)] = starts
                self._operators[place : place + len(starts)] = NO_OPERATOR
        return candidates

    def _gradient_proposed(self, candidates: Tensor, made: Generation, seeds: Tensor, counters: Tensor) -> Tensor:
        """Puts candidates that gradients lead in the place of the first ones of each cell."""
        assert self._queries is not None
        chosen, of_query = self._schedule.led(made)
        known, queries = Guidance.concat(self._guidance).select(of_query), self._queries.select(of_query)
        is_first = made.offspring.number[chosen] == 0
        counts = PixelCounts(made.offspring.ks[chosen], self.space.k)
        led = gradient_candidates(known, queries, is_first, seeds[chosen], counters[chosen], counts)
        self._operators = self._operators.index_fill(0, chosen, NO_OPERATOR)
        return candidates.index_copy(0, chosen, led)

    def _chosen(self, offspring: Offspring, draws: Draws) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Chooses two elites for each candidate: of its own class or of any of the group, better ones more often.

        Returns:
            Cells and places of the parents, and of their mates.
        """
        state = self._state
        words, shares = draws.words(_PARENTS, 7), draws.uniform(_PARENTS, 7)
        num_known = (state.log_prob > -torch.inf).sum(dim=1).clamp(min=1)

        def choose(is_any: Tensor, which: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
            cell = torch.where(is_any, offspring.first + ((which * offspring.size) >> 32), offspring.owners)
            return cell, (rank.square().square() * num_known[cell]).to(torch.int64)

        parents = choose(shares[:, 0] < self.settings.any_parent_share, words[:, 1], shares[:, 2])
        return parents, choose(shares[:, 3] < self.settings.any_mate_share, words[:, 4], shares[:, 5])

    def _learn(self, log_probs: Tensor) -> None:
        assert self._candidates is not None
        assert self._made is not None
        log_probs = log_probs.to(self.device, torch.float32)
        losses, offered = self._state.losses, self._candidates.new_zeros(self._candidates.shape[:2])
        if self._parents is not None and self.space.k > 1:
            losses, offered = self._learn_of_pixels(log_probs, self._candidates, self._parents, self._made)
        state = self._state
        best, source = self._inserted(log_probs, self._made)
        owners = self._made.offspring.owners
        made_of = owners if self._parents is None else self._parents[0]
        gained, tried = self._learn_of_operators(best[:, 0], source[:, 0], self._made)
        evaluations = state.evaluations + self._made.offers.own
        # A finished cell is as its finding says; its elites serve the others as they are.
        goes_on = ~state.is_done[:, None]
        self._state = replace(
            state,
            generation=state.generation + ~state.is_done,
            evaluations=evaluations,
            genes=torch.where(goes_on[..., None, None], selected(state.genes, self._candidates, source), state.genes),
            log_prob=torch.where(goes_on, best, state.log_prob),
            log_probs=torch.where(goes_on[..., None], selected(state.log_probs, log_probs, source), state.log_probs),
            losses=torch.where(goes_on[..., None], passed_on(losses, offered, source, made_of), state.losses),
            gained=gained,
            tried=tried,
            improved_at=torch.where(best[:, 0] > state.log_prob[:, 0], evaluations, state.improved_at),
        )
        if self.settings.restart_after is not None:
            self._state = restarted(self._state, self.settings.restart_after)
        self._candidates = self._queries = self._parents = self._made = None
        self._guidance = []
        self._refresh()

    def _learn_of_pixels(
        self, log_probs: Tensor, candidates: Tensor, parents: tuple[Tensor, Tensor], made: Generation
    ) -> tuple[Tensor, Tensor]:
        """Learns what the pixels brought in which candidates differ from their parents, and what was lost with others.

        Returns:
            What is lost with the pixels of the elites and of the candidates; see `seen`.
        """
        state = self._state
        # The first of its log-probabilities says whether a parent was classified.
        is_known = ~state.log_probs[..., 0][parents].isnan()
        counts = PixelCounts(torch.maximum(made.offspring.ks, state.ks[parents[0]]), self.space.k)
        changed = difference(candidates, state.genes[parents], self.space, counts, self._is_fresh)
        shown = observations(changed, made.offspring.first, is_known, self.space)
        self._remember(log_probs, shown, parents, made)
        of_class = state.target_classes[parents[0]].unsqueeze(1)
        gains = log_probs.gather(1, of_class) - state.log_probs[parents].gather(1, of_class)
        return seen(state.losses, parents, changed, gains.squeeze(1))

    def _learn_of_operators(self, best: Tensor, source: Tensor, made: Generation) -> tuple[Tensor, Tensor]:
        """Learns what the operators in which this generation was made have brought.

        Args:
            best: Log-probability of each cell's first elite now, ``(N,)``.
            source: Where that comes from, ``(N,)``; see `insert`.
            made: The generation.
        """
        state = self._state
        winners = source - self.settings.num_elites
        was_known = (state.log_prob[:, 0] > -torch.inf) & ~state.is_done & (winners >= 0)
        gains = torch.where(was_known, best - state.log_prob[:, 0], 0.0)
        first, owners = made.offers.first, made.offspring.owners
        winners, memory = winners.clamp(min=0), self.settings.operator_memory
        return learn(state.gained, state.tried, first, gains, winners, owners, self._operators, memory)

    def _remember(
        self, log_probs: Tensor, shown: Observations, parents: tuple[Tensor, Tensor], made: Generation
    ) -> None:
        """Learns for all cells of a group what single pixels brought."""
        state = self._state
        cell, place = parents[0][shown.candidates], parents[1][shown.candidates]
        gains = log_probs[shown.candidates] - state.log_probs[cell, place]
        gains = gains.masked_fill(~gains.isfinite() | ~shown.is_shown.unsqueeze(1), -torch.inf)
        parts = []
        for part in candidates_per_niche(made):
            told = gains[part.which, state.target_classes[part.cells].unsqueeze(1)]
            offered = shown.pixels[part.which].masked_fill(part.is_none, NO_PIXEL)
            told = told.masked_fill(part.is_none, -torch.inf)
            parts.append(remember(state.credit[part.cells], state.pixels[part.cells], told, offered))
        credit, pixels = zip(*parts, strict=True)
        self._state = replace(state, credit=torch.cat(credit), pixels=torch.cat(pixels))

    def _inserted(self, log_probs: Tensor, made: Generation) -> tuple[Tensor, Tensor]:
        """Offers the candidates of each group to all its cells of their k and above; see `insert`."""
        state = self._state
        parts = []
        for part in candidates_per_niche(made):
            told = log_probs[part.which, state.target_classes[part.cells].unsqueeze(1)].nan_to_num(nan=-torch.inf)
            is_none = part.is_none | (made.offspring.ks[part.which] > state.ks[part.cells].unsqueeze(1))
            parts.append(insert(state.log_prob[part.cells], told.masked_fill(is_none, -torch.inf), part.which))
        best, source = zip(*parts, strict=True)
        return torch.cat(best), torch.cat(source)

    def _refresh(self) -> None:
        state = self._state
        self.generation = state.generation
        self.evaluations = state.evaluations.to(torch.float64)
        self.is_exhausted = state.evaluations >= self.settings.max_evaluations
        self.best_log_prob = torch.maximum(state.log_prob[:, 0], state.kept_log_prob)

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the first elite of each cell, or what it had before it restarted where that is better."""
        state = self._state
        is_kept = state.kept_log_prob >= state.log_prob[:, 0]
        return torch.where(is_kept[:, None, None], state.kept, state.genes[:, 0])
