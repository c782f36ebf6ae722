"""A search led by gradients: one pixel at a time is placed anew, where a gradient says it would gain most.

A generation of a cell takes one of its k pixels out, asks for the gradient of the image without it, and for the exact
log-probabilities of the images with the pixels that the gradient proposes in its place. The best of these stays.
Pixels are placed one after the other at first; then each is placed anew in turn, also in the neighbourhood of where
it was; a little worse is taken, too (threshold accepting, Dueck & Scheuer 1990). When none can be placed anew, or the
image has strayed too far from the best one, some pixels of that are taken out together and placed anew with a little
noise: an iterated local search (Lourenço, Martin & Stützle 2003).

The objective is the log-probability of the target class. Its gradient points where that of its log-odds does, which
is the same up to a positive factor, ``1 / (1 - p)``.

Shapes: N cells, K altered pixels, P proposals, C channels, H rows, W columns, G = 2 + C genes of a pixel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sfi_ray.search.base import Answer, Gradients, NewCells, Query, Search, SearchSpace, log_prob_of
from sfi_ray.search.gradient.proposals import (
    colour_corners,
    first_order_gains,
    local_moves,
    proposed,
    random_pixels,
)
from sfi_ray.search.gradient.rows import as_genes, at, first_best, log_odds, marks, pixels_at
from sfi_ray.search.gradient.settings import GradientSettings
from sfi_ray.search.gradient.state import Asked, Candidates, GradientState, Together, beginning_state
from sfi_ray.search.philox import random_words, standard_normal, uniform

# What random words are for.
_FALLBACK, _LOCAL, _KICK, _NOISE = range(4)
# Pixels that are taken out together at most.
_MOST_TAKEN_OUT = 8
# Times the slack: how far below the best image a search may stray.
_FAR = 5
# Moves of different pixels that are put together in one image, at most.
_MOST_TOGETHER = 6


class GradientSearch(Search):
    """Searches many cells, each by itself.

    A generation is three queries: the gradient at each cell's image without the pixel that is placed anew; the
    proposals that follow from it; and what helped, put together in one image.

    A toy with one class that is the brighter the more it is sure::

        >>> import torch
        >>> from sfi_ray.search import Answer, GradientSearch, GradientSettings, Gradients, NewCells, SearchSpace
        >>> from sfi_ray.images import render
        >>> weights = torch.linspace(0, 1, 16).view(1, 4, 4)
        >>> def log_probs(images):
        ...     logit = (images * weights).sum(dim=(1, 2, 3)) - 2
        ...     return torch.nn.functional.logsigmoid(torch.stack([logit, -logit], dim=1))
        >>> search = GradientSearch(SearchSpace(4, 4, 1, k=2, num_classes=2), GradientSettings(max_evaluations=100))
        >>> cells = NewCells(torch.tensor([1]), torch.tensor([0]), torch.zeros(1, 1))
        >>> search.admit(cells)
        >>> while not search.is_exhausted.all():
        ...     query = search.ask()
        ...     images = render(query.genes, cells.backgrounds[query.owners], 4, 4).requires_grad_()
        ...     outputs = log_probs(images)
        ...     if isinstance(query.wanted, Gradients):
        ...         values = query.wanted.objective(outputs, slice(None))
        ...         answer = Answer(values.detach(), torch.autograd.grad(values.sum(), images)[0])
        ...     else:
        ...         answer = Answer(outputs.detach())
        ...     search.tell(answer)
        >>> sorted((search.best[0, :, :2].floor() @ torch.tensor([4.0, 1.0])).tolist())  # the two heaviest spots
        [14.0, 15.0]
    """

    def __init__(self, space: SearchSpace, settings: GradientSettings, device: torch.device | str = "cpu") -> None:
        super().__init__(space, device)
        self.settings = settings
        self._corners = colour_corners(space.channels, self.device)
        self._candidates: Candidates | None = None
        self._together: Together | None = None
        self._values: Tensor | None = None
        # What the host knows without waiting for the device: images classified for each cell, and a bound of ranks.
        none = torch.zeros(0, dtype=torch.int64)
        self._spent, self._most_rank = none, 0
        self._state = beginning_state(NewCells(none, none, torch.zeros(0, space.channels)), space, self.device)
        self._refresh()

    @property
    def best(self) -> Tensor:
        """``(N, K, G)``: the best image of each cell, as genes. A pixel that is not placed repeats one that is."""
        state = self._state
        return as_genes(state.best_spots, state.best_levels, state.best_is_placed, state.backgrounds, self.space.width)

    @property
    def backward_passes(self) -> Tensor:
        """``(N,)`` int64: images that a gradient was taken of for each cell."""
        return self._state.backward

    def state(self) -> dict[str, Tensor]:
        """Returns all that decides how the cells go on; see `Search.state`."""
        return self._state.without_given()

    def _admit(self, new_cells: NewCells, state: Mapping[str, Tensor] | None) -> None:
        joining = beginning_state(new_cells, self.space, self.device)
        if state is not None:
            joining = replace(joining, **state)
        self._spent = torch.cat([self._spent, joining.spent.cpu()])
        self._most_rank = max(self._most_rank, int(joining.rank.max()) if len(joining.rank) else 0)
        self._state = self._state.join(joining)
        self._refresh()

    def _retire(self, keep: Tensor) -> None:
        self._state = self._state.select(keep)
        self._spent = self._spent[keep.cpu()]
        self._refresh()

    def _ask(self) -> Query:
        owners = torch.arange(self.num_cells, device=self.device)
        if self._candidates is None:
            return Query(owners, self._bases(), wanted=Gradients(log_prob_of(self._state.target_classes)))
        return self._proposals(self._candidates) if self._together is None else self._combinations(self._together)

    def _tell(self, answer: Answer) -> None:
        self.is_midway = True
        if self._candidates is None:
            assert answer.gradients is not None
            self._propose(answer.values, answer.gradients)
        elif self._together is None:
            self._combine(answer.values)
        else:
            self._learn(answer.values)
            self.is_midway = False

    def _bases(self) -> Tensor:
        """Returns the image of each cell without the pixel that is to be placed anew, ``(N, K, G)``.

        It is the next one in turn, or the first that is not placed at all. Where pixels are bettered together, it is
        the whole image.
        """
        state = self._state
        slot, _, is_joint = self._slots()
        is_placed = state.is_placed & ~(marks(slot, self.space.k) & ~is_joint.unsqueeze(1))
        return as_genes(state.spots, state.levels, is_placed, state.backgrounds, self.space.width)

    def _propose(self, log_prob: Tensor, gradients: Tensor) -> None:
        """Chooses the pixels that are proposed for each cell.

        Args:
            log_prob: Log-probability of the target class for the images of `_bases`, ``(N,)`` float32.
            gradients: Its gradient with respect to their pixels, ``(N, C, H, W)`` float32.
        """
        state, space = self._state, self.space
        slot, is_building, is_joint = self._slots()
        is_slot = marks(slot, space.k) & ~is_joint.unsqueeze(1)
        self._state = state = self._record(
            replace(state, spent=state.spent + 1, backward=state.backward + 1),
            log_prob.nan_to_num(nan=-torch.inf),
            state.spots,
            state.levels,
            state.is_placed & ~is_slot,
        )
        worth = log_odds(state.log_prob) - log_odds(log_prob)
        is_known = is_slot & ~is_building.unsqueeze(1) & worth.isfinite().unsqueeze(1)
        self._state = state = replace(state, worth=torch.where(is_known, worth.unsqueeze(1), state.worth))
        count = self.settings.proposals
        spots, levels = self._by_gradient(gradients.flatten(2), state.is_placed & ~is_slot, count)
        places = torch.arange(count, device=self.device)
        # Together, every pixel gets its share of moves; alone, some proposals are moves of the one that is taken out.
        slots = torch.where(is_joint.unsqueeze(1), places % space.k, slot.unsqueeze(1).expand(-1, count))
        around = local_moves(
            state.spots.gather(1, slots),
            pixels_at(state.levels, slots),
            state.seeds,
            state.generation,
            _LOCAL,
            space.height,
            space.width,
        )
        is_local = is_joint.unsqueeze(1) | ((places >= count - self._num_local) & ~is_building.unsqueeze(1))
        spots = torch.where(is_local, around[0], spots)
        levels = torch.where(is_local.unsqueeze(2), around[1], levels)
        self._spent = self._spent + 1
        asked = self._to_classify(torch.arange(count) < (self.settings.max_evaluations - self._spent).unsqueeze(1))
        self._candidates = Candidates(slots, is_joint, is_building, spots, levels, asked)

    def _proposals(self, candidates: Candidates) -> Query:
        """Returns the images with one proposed pixel each."""
        state = self._state
        asked, owners = candidates.asked, candidates.asked.owners
        is_new = marks(asked.picked(candidates.slot), self.space.k)
        genes = as_genes(
            torch.where(is_new, asked.picked(candidates.spots).unsqueeze(1), state.spots[owners]),
            torch.where(is_new.unsqueeze(2), asked.picked(candidates.levels).unsqueeze(1), state.levels[owners]),
            state.is_placed[owners] | is_new,
            state.backgrounds[owners],
            self.space.width,
        )
        return Query(owners, genes)

    def _combine(self, log_probs: Tensor) -> None:
        """Learns how the proposals were classified, and chooses what is put together.

        Of cells that place their first pixels, the two best of them come into one image, the three best, and so on;
        likewise of cells whose pixels are bettered together. Nothing of other cells.

        Args:
            log_probs: Log-probabilities of all classes, in the order proposed, ``(M, num_classes)``. A NaN never
                wins.
        """
        candidates, state, k = self._candidates, self._state, self.space.k
        assert candidates is not None
        self._values = values = self._told(log_probs, candidates.asked)
        is_first = candidates.is_building & (state.kicks == 0)
        winner, rank, helps = self._best_moves(candidates, values)
        first, first_rank, first_helps = self._best_additions(candidates, values)
        winner = torch.where(is_first.unsqueeze(1), first, winner)
        rank = torch.where(is_first.unsqueeze(1), first_rank, rank)
        helps = torch.where(is_first.unsqueeze(1), first_helps, helps & candidates.is_joint.unsqueeze(1))
        sizes = torch.arange(2, min(_MOST_TOGETHER, k) + 1, device=self.device)
        # The number that help, and the largest rank: the only time in a generation that waits for the device.
        *numbers, rank_now = torch.cat([helps.sum(dim=1), state.rank.amax(dim=0, keepdim=True)]).tolist()
        self._most_rank = rank_now + self.settings.proposals  # by which it grows at most
        left = (self.settings.max_evaluations - self._spent).unsqueeze(1)
        order = torch.arange(len(sizes))
        asked = self._to_classify((torch.tensor(numbers).unsqueeze(1) >= 2 + order) & (order < left))
        is_moved = (rank.unsqueeze(1) < sizes.view(1, -1, 1)) & helps.unsqueeze(1)
        self._together = Together(
            spots=torch.where(is_moved, candidates.spots.gather(1, winner).unsqueeze(1), state.spots.unsqueeze(1)),
            levels=torch.where(
                is_moved.unsqueeze(3), pixels_at(candidates.levels, winner).unsqueeze(1), state.levels.unsqueeze(1)
            ),
            is_placed=is_moved | state.is_placed.unsqueeze(1),
            asked=asked,
        )

    def _combinations(self, together: Together) -> Query:
        """Returns the images in which moves of several pixels are put together."""
        asked = together.asked
        genes = as_genes(
            asked.picked(together.spots),
            asked.picked(together.levels),
            asked.picked(together.is_placed),
            self._state.backgrounds[asked.owners],
            self.space.width,
        )
        return Query(asked.owners, genes)

    def _best_moves(self, candidates: Candidates, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns for each pixel its best move, how that ranks among the pixels', and whether it helps; ``(N, K)``."""
        k = self.space.k
        is_own = candidates.slot.unsqueeze(2) == torch.arange(k, device=self.device)
        by_slot = torch.where(is_own, values.unsqueeze(2), -torch.inf)
        best = by_slot.amax(dim=1)
        winner = first_best(by_slot.transpose(1, 2).flatten(0, 1)).view(-1, k)
        rank = best.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
        return winner, rank, best > self._state.log_prob.unsqueeze(1)

    def _best_additions(self, candidates: Candidates, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns for each pixel that is not placed the next best proposal of another spot; see `_best_moves`."""
        state = self._state
        ordered, order = values.sort(dim=1, descending=True, stable=True)
        spots = candidates.spots.gather(1, order)
        earlier = torch.ones(spots.shape[1], spots.shape[1], dtype=torch.bool, device=self.device).tril(-1)
        is_double = ((spots.unsqueeze(2) == spots.unsqueeze(1)) & earlier).any(dim=2)
        is_useful = ~is_double & (ordered > state.log_prob.unsqueeze(1))
        # Useful proposals first, in their order; each free pixel takes the next one.
        useful = order.gather(1, (~is_useful).to(torch.int64).argsort(dim=1, stable=True))
        is_free = ~state.is_placed
        rank = is_free.cumsum(dim=1) - 1
        helps = is_free & (rank < is_useful.sum(dim=1, keepdim=True))
        return useful.gather(1, rank.clamp(0, useful.shape[1] - 1)), rank, helps

    def _learn(self, log_probs: Tensor) -> None:
        """Learns how the combinations were classified, and keeps the best of all of this generation.

        Args:
            log_probs: Log-probabilities of all classes, in the order proposed, ``(M, num_classes)``. A NaN never
                wins.
        """
        candidates, state, together, values = self._candidates, self._state, self._together, self._values
        assert candidates is not None
        assert together is not None
        assert values is not None

        wins = first_best(values)
        state = self._record(state, at(values, wins), *self._with_pixel(candidates, wins))
        # The pixel as it was is no way on, however good it was.
        is_old = candidates.spots == state.spots.gather(1, candidates.slot)
        is_old &= (candidates.levels == pixels_at(state.levels, candidates.slot)).all(dim=2)
        values = values.masked_fill(is_old & ~candidates.is_building.unsqueeze(1), -torch.inf)
        # Where pixels were taken out together, noise keeps the search from going back to where it was.
        is_noisy = candidates.is_building & (state.kicks > 0)
        words = random_words(state.seeds, state.generation, _NOISE, values.shape[1])
        noise = self.settings.noise * standard_normal(words).to(torch.float32)
        chosen = torch.where(is_noisy, first_best(log_odds(values) + noise), first_best(values))
        value = at(values, chosen)
        is_better = value > state.log_prob
        # A little worse is taken, too: the way to something better often leads through it.
        is_near = ~candidates.is_joint & (log_odds(value) > log_odds(state.log_prob) - self.settings.slack)
        is_taken = torch.where(candidates.is_building, value > -torch.inf, is_better | is_near)
        spots, levels, is_placed = self._with_pixel(candidates, chosen)
        if len(together.asked.places):
            united = self._told(log_probs, together.asked)
            best = first_best(united)
            is_united = at(united, best) > value
            value = torch.where(is_united, at(united, best), value)
            spots = torch.where(is_united[:, None], at(together.spots, best), spots)
            levels = torch.where(is_united[:, None, None], at(together.levels, best), levels)
            is_placed = torch.where(is_united[:, None], at(together.is_placed, best), is_placed)
            state = self._record(state, value, spots, levels, is_placed)
            is_taken = is_taken | is_united
        state = replace(
            state,
            spots=torch.where(is_taken[:, None], spots, state.spots),
            levels=torch.where(is_taken[:, None, None], levels, state.levels),
            is_placed=torch.where(is_taken[:, None], is_placed, state.is_placed),
            log_prob=torch.where(is_taken, value, state.log_prob),
            generation=state.generation + 1,
            spent=self._spent.to(self.device, non_blocking=True),
        )
        self._state = self._move_on(state, candidates, is_taken)
        self._candidates = self._together = self._values = None
        self._refresh()

    def _to_classify(self, is_asked: Tensor) -> Asked:
        """Counts images that are to be classified, flags ``(N, P)`` on the host."""
        asked = Asked.of(is_asked, self.device)
        self._spent = self._spent + asked.numbers
        return asked

    def _told(self, log_probs: Tensor, asked: Asked) -> Tensor:
        """Returns the target's log-probability of every image that was asked for, -inf for those that were not."""
        targets = self._state.target_classes[asked.owners].unsqueeze(1)
        return asked.spread(log_probs.gather(1, targets).squeeze(1))

    @property
    def _num_local(self) -> int:
        return min(self.settings.proposals - 1, int(self.settings.proposals * self.settings.local_share))

    def _slots(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns which pixel each cell places anew, whether that was not placed at all, and whether it betters all."""
        state = self._state
        is_building = ~state.is_placed.all(dim=1)
        slots = torch.arange(self.space.k, device=self.device)
        first = torch.where(state.is_placed, self.space.k, slots).amin(dim=1)
        slot = torch.where(is_building, first, state.turn % self.space.k)
        is_joint = ~is_building & (state.generation % 2 == 0) & (self.space.k > 1) & (self._num_local > 0)
        return slot, is_building, is_joint

    def _by_gradient(self, gradients: Tensor, is_placed: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Returns pixels by the gradient's ranking, and random ones where it has no more."""
        state, space = self._state, self.space
        taken = torch.zeros(len(gradients), space.height * space.width, device=self.device)
        taken = taken.scatter_add(1, state.spots, is_placed.to(torch.float32)) > 0
        gains = first_order_gains(gradients, state.backgrounds, taken)
        # Tiles rule while pixels are placed at first, and where the ranking is gone through to its end.
        is_spread = ~state.is_placed.all(dim=1) | (space.k == 1)
        spots, corners, is_valid = proposed(
            gains, state.rank, self._most_rank, count, space.height, space.width, is_spread
        )
        levels = self._corners[corners]
        other_spots, other_levels = random_pixels(
            state.seeds, state.generation, _FALLBACK, count, space.height * space.width, space.channels
        )
        return (
            torch.where(is_valid, spots, other_spots),
            torch.where(is_valid.unsqueeze(2), levels, other_levels),
        )

    def _with_pixel(self, candidates: Candidates, choice: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the images with one of the proposed pixels in its slot."""
        state = self._state
        is_slot = marks(at(candidates.slot, choice), self.space.k)
        return (
            torch.where(is_slot, at(candidates.spots, choice).unsqueeze(1), state.spots),
            torch.where(is_slot.unsqueeze(2), at(candidates.levels, choice).unsqueeze(1), state.levels),
            state.is_placed | is_slot,
        )

    @staticmethod
    def _record(state: GradientState, value: Tensor, spots: Tensor, levels: Tensor, is_placed: Tensor) -> GradientState:
        """Keeps images that are better than any before."""
        is_best = value > state.best_log_prob
        return replace(
            state,
            best_spots=torch.where(is_best[:, None], spots, state.best_spots),
            best_levels=torch.where(is_best[:, None, None], levels, state.best_levels),
            best_is_placed=torch.where(is_best[:, None], is_placed, state.best_is_placed),
            best_log_prob=torch.where(is_best, value, state.best_log_prob),
        )

    def _move_on(self, state: GradientState, candidates: Candidates, is_taken: Tensor) -> GradientState:
        """Chooses what comes next: another turn, a later rank, or pixels taken out together."""
        k, count = self.space.k, self.settings.proposals
        is_alone = ~candidates.is_building & ~candidates.is_joint
        turn = state.turn + is_alone.to(torch.int64)
        if k == 1:
            # The image without its only pixel is always the same, and so is the ranking: it is gone through once.
            used = torch.where(candidates.is_building, count, count - self._num_local)
            return replace(state, turn=turn, rank=state.rank + used)
        failures = torch.where(is_taken | candidates.is_building, 0, state.failures + is_alone.to(torch.int64))
        is_round = failures >= k
        rounds = torch.where(is_taken, 0, state.rounds + is_round.to(torch.int64))
        rank = torch.where(is_taken, 0, state.rank + is_round.to(torch.int64) * (count - self._num_local))
        # No proposal of a pixel that is not placed was a number: the next ones are looked at.
        rank = torch.where(candidates.is_building & ~is_taken, state.rank + count, rank)
        # Whoever has strayed too far begins again at the best image, less some pixels.
        is_whole = state.is_placed.all(dim=1)
        is_astray = log_odds(state.log_prob) < log_odds(state.best_log_prob) - _FAR * self.settings.slack
        is_stuck = (rounds >= self.settings.restart_after) | (is_whole & is_astray)
        kept = self._kept(state)
        return replace(
            state,
            spots=torch.where(is_stuck[:, None], state.best_spots, state.spots),
            levels=torch.where(is_stuck[:, None, None], state.best_levels, state.levels),
            is_placed=torch.where(is_stuck[:, None], state.best_is_placed & kept, state.is_placed),
            turn=turn,
            failures=torch.where(is_round, 0, failures),
            rounds=torch.where(is_stuck, 0, rounds),
            rank=torch.where(is_stuck, 0, rank),
            kicks=state.kicks + is_stuck.to(torch.int64),
        )

    def _kept(self, state: GradientState) -> Tensor:
        """Draws which pixels are not taken out together, ``(N, K)`` bool.

        Two are taken out, seldom more; those that are worth little rather than others.
        """
        k = self.space.k
        draws = uniform(random_words(state.seeds, state.generation, _KICK, k + 1))
        number = 2 + (draws[:, 0] ** 3 * (min(k, _MOST_TAKEN_OUT) - 1)).to(torch.int64)
        order = state.worth.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        order = (order / k + draws[:, 1:]).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        return order >= number.unsqueeze(1)

    def _refresh(self) -> None:
        state = self._state
        self.generation = state.generation
        self.evaluations = state.spent.to(torch.float64)
        self.is_exhausted = state.spent >= self.settings.max_evaluations
        self.best_log_prob = state.best_log_prob
