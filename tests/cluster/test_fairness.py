"""The fair shares of launches on one cluster: their arithmetic, and launches that follow them in virtual time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.cluster.ray.fairness import Arbiter, Claim, fair_shares

AMOUNTS = st.sampled_from([0.25, 0.5, 1, 2, 3])
NEEDS = st.fixed_dictionaries({"CPU": AMOUNTS}, optional={"GPU": AMOUNTS, "fast": AMOUNTS})
CLAIMS = st.builds(Claim, need=NEEDS, wanted=st.integers(0, 30), held=st.integers(0, 8))
CAPACITY = st.fixed_dictionaries({"CPU": st.integers(0, 40)}, optional={"GPU": st.integers(0, 8)})


def used(claims, shares, name):
    return sum(share * claim.need.get(name, 0) for claim, share in zip(claims, shares, strict=True))


def fits(need, capacity, claims, shares):
    return all(used(claims, shares, name) + amount <= capacity.get(name, 0) + 1e-6 for name, amount in need.items())


@given(CAPACITY, st.lists(CLAIMS, max_size=6))
def test_shares_are_no_more_than_is_wanted_and_than_there_is_and_nothing_useful_is_left(capacity, claims):
    shares = fair_shares(capacity, claims)
    for name in ("CPU", "GPU", "fast"):
        assert used(claims, shares, name) <= capacity.get(name, 0) + 1e-6
    for claim, share in zip(claims, shares, strict=True):
        assert 0 <= share <= claim.wanted
        assert share == claim.wanted or not fits(claim.need, capacity, claims, shares)


@given(CAPACITY, st.lists(CLAIMS, max_size=6))
def test_nobody_has_two_while_another_that_one_actor_of_would_fit_has_none(capacity, claims):
    shares = fair_shares(capacity, claims)
    firsts = [min(claim.wanted, 1) for claim in claims]
    if all(used(claims, firsts, name) <= capacity.get(name, 0) for name in ("CPU", "GPU", "fast")):
        assert all(share >= first for share, first in zip(shares, firsts, strict=True))


@given(CAPACITY, st.lists(CLAIMS, min_size=2, max_size=6))
def test_who_has_more_of_its_scarcest_resource_took_it_from_nobody_poorer(capacity, claims):
    shares = fair_shares(capacity, claims)
    parts = [
        share * max(amount / capacity[name] for name, amount in claim.need.items()) if share else 0.0
        for claim, share in zip(claims, shares, strict=True)
    ]
    for poor, claim in enumerate(claims):
        for rich in range(len(claims)):
            one_less = [share - (number == rich) for number, share in enumerate(shares)]
            if shares[poor] < claim.wanted and shares[rich] and fits(claim.need, capacity, claims, one_less):
                # Where one actor less of the rich one would do, the rich one had it when both were equal at most.
                step = parts[rich] / shares[rich]
                assert parts[rich] - step <= parts[poor] + 1e-6


@given(st.integers(0, 40), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 8)), min_size=1, max_size=6))
def test_with_equal_actors_more_room_more_wanted_and_fewer_launches_never_take_from_a_launch(room, launches):
    claims = [Claim({"CPU": 1}, wanted, held) for wanted, held in launches]
    shares = fair_shares({"CPU": room}, claims)
    more = fair_shares({"CPU": room + 1}, claims)
    assert all(after >= before for before, after in zip(shares, more, strict=True))
    fewer = fair_shares({"CPU": room}, claims[1:])
    assert all(after >= before for before, after in zip(shares[1:], fewer, strict=True))
    greedier = [Claim({"CPU": 1}, claims[0].wanted + 1, claims[0].held), *claims[1:]]
    assert fair_shares({"CPU": room}, greedier)[0] >= shares[0]
    # Largest first, no two that are not content differ by more than one.
    short = [share for share, claim in zip(shares, claims, strict=True) if share < claim.wanted]
    assert not short or max(shares) - min(short) <= 1


def test_launches_compete_only_in_the_resources_that_are_short():
    on_gpus = Claim({"CPU": 1, "GPU": 1}, wanted=100, held=0)
    on_cpus = Claim({"CPU": 1}, wanted=100, held=0)
    assert fair_shares({"CPU": 64, "GPU": 8}, [on_gpus, on_cpus]) == [8, 56]


def test_who_holds_the_odd_actor_keeps_it():
    claims = [Claim({"CPU": 1}, 9, held) for held in (2, 3)]
    assert fair_shares({"CPU": 5}, claims) == [2, 3]


class Cluster:
    """Nodes that give room to waiting actors in no order, and launches that follow the arbiter, in virtual time.

    Args:
        nodes: What each has.
        seed: Of the order.
    """

    def __init__(self, nodes, seed=0):
        self.now = 1000.0
        self.free = [dict(node) for node in nodes]
        self.others = {}
        self.launches = {}
        self.arbiter = Arbiter()
        self.num_given_up = 0
        self._total = {name: sum(node.get(name, 0) for node in nodes) for name in {n for node in nodes for n in node}}
        self._random = random.Random(seed)

    def add(self, name, need, wanted):
        self.launches[name] = {"need": need, "wanted": wanted, "limit": None, "starting": [], "up": [], "leaving": []}

    def held(self, name):
        return len(self.launches[name]["up"]) + len(self.launches[name]["leaving"])

    def take(self, need):
        rooms = [node for node in self.free if all(node.get(n, 0) >= amount for n, amount in need.items())]
        if not rooms:
            return None
        node = self._random.choice(rooms)
        for name, amount in need.items():
            node[name] -= amount
        return node

    def give(self, need, node):
        for name, amount in need.items():
            node[name] += amount

    def end(self, name):
        launch = self.launches.pop(name)
        for _, node in (*launch["starting"], *launch["up"], *launch["leaving"]):
            self.give(launch["need"], node)

    def step(self, seconds=3):
        self.now += seconds
        for launch in self.launches.values():
            launch["up"] += [entry for entry in launch["starting"] if entry[0] <= self.now]
            launch["starting"] = [entry for entry in launch["starting"] if entry[0] > self.now]
            for entry in [entry for entry in launch["leaving"] if entry[0] <= self.now]:
                launch["leaving"].remove(entry)
                self.give(launch["need"], entry[1])
        for name in self._random.sample(sorted(self.launches), len(self.launches)):
            launch = self.launches[name]
            free = {n: sum(node.get(n, 0) for node in self.free) for n in self._total}
            claim = Claim(launch["need"], launch["wanted"], self.held(name))
            limit = self.arbiter.claim(name, claim, self._total, free, self.now)
            launch["target"] = launch["wanted"] if limit is None else min(limit, launch["wanted"])
            while len(launch["up"]) + len(launch["starting"]) > launch["target"] and launch["up"]:
                # Those of one node together, as the executor chooses.
                going = min(launch["up"], key=lambda entry: id(entry[1]))
                launch["up"].remove(going)
                launch["leaving"].append((self.now + self._random.uniform(1, 15), going[1]))
                self.num_given_up += 1
        names = sorted(self.launches)
        while names:  # Ray serves those that wait in an order of its own
            name = self._random.choice(names)
            launch = self.launches[name]
            room = len(launch["up"]) + len(launch["starting"]) < launch["target"] and self.take(launch["need"])
            if room:
                launch["starting"].append((self.now + self._random.uniform(3, 12), room))
            else:
                names.remove(name)

    def run(self, seconds):
        until = self.now + seconds
        while self.now < until:
            self.step()


@pytest.mark.parametrize("seed", range(5))
def test_a_small_launch_beside_a_huge_one_gets_its_actor_within_a_minute_and_the_room_goes_back(seed):
    cluster = Cluster([{"CPU": 4}] * 4, seed)
    cluster.add("huge", {"CPU": 1}, 1000)
    cluster.run(120)
    assert cluster.held("huge") == 16
    assert cluster.num_given_up == 0
    cluster.add("small", {"CPU": 1}, 1)
    cluster.run(60)
    assert cluster.held("small") == 1
    cluster.end("small")
    cluster.run(60)
    assert cluster.held("huge") == 16
    assert cluster.num_given_up == 1


@pytest.mark.parametrize("seed", range(5))
def test_launches_of_any_size_come_to_their_fair_shares_and_stay_there(seed):
    cluster = Cluster([{"CPU": 4}] * 8, seed)
    cluster.add("first", {"CPU": 1}, 1000)
    cluster.run(90)
    cluster.add("second", {"CPU": 1}, 1000)
    cluster.add("third", {"CPU": 1}, 4)
    cluster.run(240)
    assert cluster.held("third") == 4
    assert {cluster.held("first"), cluster.held("second")} == {14}
    before = cluster.num_given_up
    cluster.run(1800)
    assert cluster.num_given_up == before, "shares that nobody changes move nobody"


def test_a_larger_actor_gets_its_room_on_one_node():
    cluster = Cluster([{"CPU": 4}] * 2)
    cluster.add("small", {"CPU": 1}, 1000)
    cluster.run(60)
    cluster.add("large", {"CPU": 4}, 1)
    cluster.run(90)
    assert (cluster.held("small"), cluster.held("large")) == (4, 1)


def test_a_launch_whose_actors_use_nothing_that_is_short_gives_nothing():
    cluster = Cluster([{"CPU": 8, "GPU": 1}])
    cluster.add("cpus", {"CPU": 1}, 4)
    cluster.add("gpus", {"CPU": 1, "GPU": 1}, 100)
    cluster.run(60)
    cluster.add("also", {"CPU": 1, "GPU": 1}, 100)
    cluster.run(900)
    assert cluster.held("cpus") == 4
    assert cluster.held("gpus") + cluster.held("also") == 1, "a launch that has an actor keeps one"
    assert cluster.num_given_up == 0


def test_room_that_programs_of_others_take_is_not_shared_out():
    cluster = Cluster([{"CPU": 10}])
    assert cluster.take({"CPU": 6}) is not None
    cluster.add("first", {"CPU": 1}, 1000)
    cluster.run(60)
    assert cluster.held("first") == 4
    cluster.add("second", {"CPU": 1}, 1000)
    cluster.run(180)
    assert (cluster.held("first"), cluster.held("second")) == (2, 2)


def test_nobody_gives_way_for_ever_to_a_launch_that_cannot_use_the_room():
    cluster = Cluster([{"CPU": 4}] * 2)
    cluster.add("huge", {"CPU": 1}, 1000)
    cluster.run(60)
    cluster.add("unfit", {"CPU": 5}, 1)  # fits on no node, though on both together
    cluster.run(120)
    assert cluster.held("huge") < 8
    cluster.run(400)
    assert cluster.held("huge") == 8


def test_the_share_of_a_launch_that_died_returns():
    arbiter = Arbiter()
    total, free = {"CPU": 4}, {"CPU": 0}
    answers = []
    for second in range(0, 90, 3):
        if second < 30:
            arbiter.claim("dead", Claim({"CPU": 1}, 9, 0), total, free, float(second))
        answers.append(arbiter.claim("alive", Claim({"CPU": 1}, 9, 4), total, free, float(second)))
    assert answers[2] is None, "actors need time to start"
    assert answers[9] == 2
    assert answers[-1] is None
    arbiter.claim("late", Claim({"CPU": 1}, 9, 0), total, free, 90.0)
    arbiter.claim("late", Claim({"CPU": 1}, 9, 0), total, free, 105.0)
    assert arbiter.claim("alive", Claim({"CPU": 1}, 9, 4), total, free, 105.0) == 2
    arbiter.withdraw("late")
    assert arbiter.claim("alive", Claim({"CPU": 1}, 9, 4), total, free, 106.0) is None
