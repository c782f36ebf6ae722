import pytest
import torch

from sfi_ray.search import Entrants, GradientSearch, GradientSettings, SearchSpace

SPACE = SearchSpace(height=6, width=7, channels=3, k=3, num_classes=4)


def entrants(num_cells, first=0):
    numbers = torch.arange(first, first + num_cells)
    return Entrants(1000 + numbers, numbers % 4, torch.zeros(num_cells, 3))


def judge(genes, targets):
    """A made-up classifier: pseudo-random log-probabilities by the genes alone."""
    mixed = (genes.flatten(1).double() * torch.arange(1, genes[0].numel() + 1)).sum(dim=1, keepdim=True)
    return torch.log_softmax(3 * torch.sin(mixed + torch.arange(4)), dim=1).float()


def advance(search, generations=1):
    seen = []
    for _ in range(generations):
        bases = search.bases()
        values = judge(bases, None).gather(1, search.target_classes.unsqueeze(1)).squeeze(1)
        wave = torch.arange(3 * 42).view(3, 6, 7)
        gradients = torch.sin(wave * (1 + bases.sum(dim=(1, 2))).view(-1, 1, 1, 1)).float()
        proposal = search.propose(values, gradients)
        log_probs = judge(proposal.genes, None)
        search.learn(log_probs)
        seen.append((bases, values, proposal, log_probs))
    return seen


def make(**settings):
    return GradientSearch(SPACE, GradientSettings(**{"proposals": 9, "max_evaluations": 10_000, **settings}))


def test_pixels_are_placed_one_after_the_other_and_then_anew_in_turn():
    search = make()
    search.admit(entrants(1))
    placed = []
    before = search.bases()
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
    search.admit(entrants(3))
    before = search.best_log_prob
    highest = torch.full((3,), -torch.inf)
    for _ in range(20):
        ((_, values, proposal, log_probs),) = advance(search)
        targets = search.target_classes[proposal.owners]
        told = log_probs.gather(1, targets.unsqueeze(1)).squeeze(1)
        highest = torch.maximum(highest, values).scatter_reduce(0, proposal.owners, told, "amax")
        assert (search.best_log_prob >= before).all()
        before = search.best_log_prob
        assert torch.equal(search.best_log_prob, highest)
        again = judge(search.best, None).gather(1, search.target_classes.unsqueeze(1)).squeeze(1)
        assert torch.allclose(again, highest, atol=1e-5)


def test_proposals_alter_at_most_k_spots_and_lie_in_the_space():
    search = make()
    search.admit(entrants(2))
    lower, upper = SPACE.bounds("cpu")
    for _, _, proposal, _ in advance(search, 15):
        assert proposal.genes.shape[1:] == (3, 5)
        assert ((proposal.genes >= lower) & (proposal.genes <= upper)).all()
        levels = proposal.genes[..., 2:] * 255
        assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_being_stuck_takes_two_or_more_pixels_out_of_the_best():
    search = make(patience=1)
    search.admit(entrants(30))
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
    search = make(patience=3, local_share=0)
    search.admit(entrants(10))
    ranks = []
    for _ in range(30):
        advance(search)
        ranks += search.state()["rank"].tolist()
    assert set(ranks) == {0, 9, 18}


def test_a_cell_goes_its_own_way_beside_others_and_from_its_state():
    together = make()
    together.admit(entrants(5))
    advance(together, 30)
    alone = make()
    alone.admit(entrants(1, first=3))
    advance(alone, 12)
    kept = {name: tensor.clone() for name, tensor in alone.state().items()}
    later = make()
    later.admit(entrants(2, first=7))
    advance(later, 2)
    later.admit(entrants(1, first=3), kept)
    later.retire(torch.tensor([False, True, True]))
    advance(later, 18)
    for name, tensor in together.state().items():
        assert torch.equal(tensor[3], later.state()[name][1]), name


def test_nan_never_wins():
    search = make()
    search.admit(entrants(2))
    bases = search.bases()
    proposal = search.propose(torch.full((2,), torch.nan), torch.full((2, 3, 6, 7), torch.nan))
    assert torch.equal(search.best_log_prob, torch.full((2,), -torch.inf))
    log_probs = judge(proposal.genes, None)
    log_probs[::2] = torch.nan
    search.learn(log_probs)
    assert search.best_log_prob.isfinite().all()
    assert not torch.equal(search.best, bases)


@pytest.mark.parametrize(("proposals", "share", "near"), [(1, 1.0, 0), (2, 1.0, 1), (10, 0.4, 4), (10, 0.0, 0)])
def test_one_proposal_at_least_is_the_gradients(proposals, share, near):
    search = make(proposals=proposals, local_share=share)
    search.admit(entrants(1))
    advance(search, 3)
    ((bases, _, proposal, _),) = advance(search)
    assert len(proposal.genes) == proposals
    assert search._num_local == near
    assert bases.shape == (1, 3, 5)
