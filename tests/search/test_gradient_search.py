import pytest
import torch

from sfi_ray.search import Answer, GradientSearch, GradientSettings, NewCells, Query, SearchSpace

SPACE = SearchSpace(height=6, width=7, channels=3, k=3, num_classes=4)


def new_cells(num_cells, first=0):
    numbers = torch.arange(first, first + num_cells)
    return NewCells(1000 + numbers, numbers % 4, torch.zeros(num_cells, 3))


def judge(genes, targets):
    """A made-up classifier: pseudo-random log-probabilities by the genes alone."""
    mixed = (genes.flatten(1).double() * torch.arange(1, genes[0].numel() + 1)).sum(dim=1, keepdim=True)
    return torch.log_softmax(3 * torch.sin(mixed + torch.arange(4)), dim=1).float()


def targets_of(search):
    return search._state.target_classes


def propose(search, values, gradients):
    """Answers the gradient query and returns the proposals."""
    search.ask()
    search.tell(Answer(values, gradients))
    return search.ask()


def combine(search, log_probs):
    """Answers the proposals and returns the combinations."""
    search.tell(Answer(log_probs))
    return search.ask()


def learn(search, log_probs):
    search.tell(Answer(log_probs))
    assert not search.is_midway


def advance(search, generations=1):
    seen = []
    for _ in range(generations):
        bases = search._bases()
        values = judge(bases, None).gather(1, targets_of(search).unsqueeze(1)).squeeze(1)
        wave = torch.arange(3 * 42).view(3, 6, 7)
        gradients = torch.sin(wave * (1 + bases.sum(dim=(1, 2))).view(-1, 1, 1, 1)).float()
        proposal = propose(search, values, gradients)
        log_probs = judge(proposal.genes, None)
        combined = combine(search, log_probs)
        united = judge(combined.genes, None) if len(combined.genes) else log_probs[:0]
        learn(search, united)
        asked = Query(torch.cat([proposal.owners, combined.owners]), torch.cat([proposal.genes, combined.genes]))
        seen.append((bases, values, asked, torch.cat([log_probs, united])))
    return seen


def make(**settings):
    return GradientSearch(SPACE, GradientSettings(**{"proposals": 9, "max_evaluations": 10_000, **settings}))


def test_pixels_are_placed_one_after_the_other_and_then_anew_in_turn(monkeypatch):
    monkeypatch.setattr("sfi_ray.search.gradient.search._MOST_TOGETHER", 1)
    search = make(local_share=0.0)
    search.admit(new_cells(1))
    placed = []
    before = search._bases()
    assert len(before.unique(dim=0)) == len(before[0].unique(dim=0)) == 1, "the bare background"
    for _ in range(3):
        advance(search)
        placed.append(search.state()["is_placed"].tolist()[0])
    assert placed == [[True, False, False], [True, True, False], [True, True, True]]
    for slot in (0, 1, 2, 0):
        spots = search.state()["spots"]
        advance(search)
        others = torch.arange(3) != slot
        assert torch.equal(search.state()["spots"][:, others], spots[:, others])


def test_the_best_is_the_highest_of_all_that_was_seen_and_never_gets_worse():
    search = make()
    search.admit(new_cells(3))
    before = search.best_log_prob
    highest = torch.full((3,), -torch.inf)
    for _ in range(20):
        ((_, values, proposal, log_probs),) = advance(search)
        targets = targets_of(search)[proposal.owners]
        told = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
        highest = torch.maximum(highest, values).scatter_reduce(0, proposal.owners, told, "amax")
        assert (search.best_log_prob >= before).all()
        before = search.best_log_prob
        assert torch.equal(search.best_log_prob, highest)
        again = judge(search.best, None).gather(1, targets_of(search).unsqueeze(1)).squeeze(1)
        assert torch.allclose(again, highest, atol=1e-5)


def test_proposals_alter_at_most_k_spots_and_lie_in_the_space():
    search = make()
    search.admit(new_cells(2))
    lower, upper = SPACE.bounds("cpu")
    for _, _, proposal, _ in advance(search, 15):
        assert proposal.genes.shape[1:] == (3, 5)
        assert ((proposal.genes >= lower) & (proposal.genes <= upper)).all()
        levels = proposal.genes[..., 2:] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_being_stuck_takes_two_or_more_pixels_out_of_the_best():
    search = make(restart_after=1)
    search.admit(new_cells(30))
    taken_out = []
    for _ in range(25):
        before = search.state()["kicks"]
        advance(search)
        state = search.state()
        kicked = state["kicks"] > before
        taken_out += (~state["is_placed"][kicked]).sum(dim=1).tolist()
        placed = state["is_placed"] & kicked.unsqueeze(1)
        assert torch.equal(state["spots"][placed], state["best_spots"][placed])
    assert set(taken_out) == {2, 3}


def test_rounds_without_success_look_further_down_the_ranking():
    search = make(restart_after=3, local_share=0)
    search.admit(new_cells(10))
    ranks = []
    for _ in range(30):
        advance(search)
        ranks += search.state()["rank"].tolist()
    assert set(ranks) == {0, 9, 18}


def test_a_cell_goes_its_own_way_beside_others_and_from_its_state():
    together = make()
    together.admit(new_cells(5))
    advance(together, 30)
    alone = make()
    alone.admit(new_cells(1, first=3))
    advance(alone, 12)
    kept = {name: tensor.clone() for name, tensor in alone.state().items()}
    later = make()
    later.admit(new_cells(2, first=7))
    advance(later, 2)
    later.admit(new_cells(1, first=3), kept)
    later.retire(torch.tensor([False, True, True]))
    advance(later, 18)
    for name, tensor in together.state().items():
        assert torch.equal(tensor[3], later.state()[name][1]), name


def test_nan_never_wins():
    search = make()
    search.admit(new_cells(2))
    bases = search._bases()
    proposal = propose(search, torch.full((2,), torch.nan), torch.full((2, 3, 6, 7), torch.nan))
    assert torch.equal(search.best_log_prob, torch.full((2,), -torch.inf))
    log_probs = judge(proposal.genes, None)
    log_probs[::2] = torch.nan
    combined = combine(search, log_probs)
    learn(search, torch.full((len(combined.genes), 4), torch.nan))
    assert search.best_log_prob.isfinite().all()
    assert not torch.equal(search.best, bases)


@pytest.mark.parametrize(("proposals", "share", "near"), [(1, 1.0, 0), (2, 1.0, 1), (10, 0.4, 4), (10, 0.0, 0)])
def test_one_proposal_at_least_is_the_gradients(proposals, share, near):
    search = make(proposals=proposals, local_share=share)
    search.admit(new_cells(1))
    advance(search, 3)
    bases = search._bases()
    proposal = propose(search, torch.zeros(1), torch.zeros(1, 3, 6, 7))
    assert len(proposal.genes) == proposals
    assert search._num_local == near
    assert bases.shape == (1, 3, 5)


def told(search, proposal, value):
    """Log-probabilities in which the target class of every image has what `value` says of its genes."""
    log_probs = torch.full((len(proposal.genes), 4), -9.0)
    targets = targets_of(search)[proposal.owners]
    values = torch.tensor([value(genes) for genes in proposal.genes])
    return log_probs.scatter(1, targets.unsqueeze(1), values.unsqueeze(1))


def num_spots(genes):
    return len({(int(row), int(col)) for row, col in genes[:, :2].tolist()})


def test_first_pixels_that_all_help_are_placed_together():
    search = make(local_share=0.0)
    search.admit(new_cells(2))
    proposal = propose(search, torch.full((2,), -5.0), torch.rand(2, 3, 6, 7))
    assert {num_spots(genes) for genes in proposal.genes} == {1}
    combined = combine(search, told(search, proposal, lambda genes: -4.0))
    # The two best in one image and the three best in another, for each cell.
    assert sorted(num_spots(genes) for genes in combined.genes) == [2, 2, 3, 3]
    assert sorted(combined.owners.tolist()) == [0, 0, 1, 1]
    learn(search, told(search, combined, lambda genes: -4.0 + num_spots(genes)))
    assert search.state()["is_placed"].all()
    assert search.best_log_prob.tolist() == [-1.0, -1.0]
    assert search.evaluations.tolist() == [1 + 9 + 2] * 2


def test_what_does_not_help_is_not_put_together():
    search = make()
    search.admit(new_cells(1))
    proposal = propose(search, torch.full((1,), -0.5), torch.rand(1, 3, 6, 7))
    # Better than nothing known at all, so every first pixel helps; the second ones do not.
    learn(search, told(search, combine(search, told(search, proposal, lambda genes: -1.0)), lambda genes: -8.0))
    assert search.state()["is_placed"].tolist() == [[True, False, False]]
    proposal = propose(search, torch.full((1,), -1.0), torch.rand(1, 3, 6, 7))
    assert len(combine(search, told(search, proposal, lambda genes: -2.0)).genes) == 0


def test_moves_of_different_pixels_are_put_together_and_the_best_image_stays():
    search = make(proposals=12, local_share=0.5)
    search.admit(new_cells(1))
    while not (search.state()["is_placed"].all() and search._slots()[2].all()):
        advance(search)
    before = search._bases()[0]
    assert num_spots(before) == 3, "the whole image"
    proposal = propose(search, torch.full((1,), -3.0), torch.rand(1, 3, 6, 7))
    num_moved = [int((genes != before).any(dim=1).sum()) for genes in proposal.genes]
    assert max(num_moved) == 1

    def gain(genes):
        return 5.0 + int((genes != before).any(dim=1).sum())

    combined = combine(search, told(search, proposal, gain))
    moved_together = [int((genes != before).any(dim=1).sum()) for genes in combined.genes]
    assert moved_together == [2, 3]
    learn(search, told(search, combined, gain))
    assert search.best_log_prob.tolist() == [8.0]
    assert int((search.best[0] != before).any(dim=1).sum()) == 3
