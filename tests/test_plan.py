import math
import os
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sfi_ray.plan
from sfi_ray.attacks import DifferentialEvolutionAttackSettings
from sfi_ray.data import DatasetInfo, DatasetSpec, dataset_info
from sfi_ray.errors import InputError
from sfi_ray.grid import Grid, GridClassifier, num_shards
from sfi_ray.job import Job
from sfi_ray.models import Choice, Classifier, build
from sfi_ray.plan import choose_cells_per_shard, forward_rate, make_plan, schedule, tuning_request
from sfi_ray.store.record import make_grid
from sfi_ray.types import Background

DIGITS = DatasetInfo("digits", 1, 8, 8, tuple("0123456789"))


def make_grid_of(num_cells, num_classifiers=1):
    return Grid(
        classifiers=tuple(GridClassifier(f"c{i}", "f") for i in range(num_classifiers)),
        backgrounds=(Background("black", (0,)),),
        target_classes=tuple((i, str(i)) for i in range(10)),
        ks=(1,),
        replicates=num_cells,
        seed=0,
        method={},
    )


def sharing(shares_classes):
    return SimpleNamespace(shares_classes=shares_classes, shares_ks=False, max_evaluations=1000)


@settings(deadline=None)
@given(
    st.integers(1, 3000),
    st.integers(1, 500),
    st.sampled_from([1, 64, 128, 4096]),
    st.integers(0, 30_000),
    st.booleans(),
)
def test_shards_are_enough_for_the_actors_and_fill_a_device(replicates, num_actors, micro_batch, generations, shares):
    grid = make_grid_of(replicates)
    attack = DifferentialEvolutionAttackSettings(population_size=100, generations=generations).build()
    attack.shares_classes = shares
    size = choose_cells_per_shard(grid, attack, num_actors, micro_batch)
    block = grid.block(shares_classes=attack.shares_classes, shares_ks=attack.shares_ks)
    assert size >= block
    assert size <= 100_000
    # Everybody gets a shard, where there are enough cells for it.
    assert size <= block or size <= math.ceil(len(grid) / num_actors)
    # A shard is never larger than it is worth, and smaller than that only to have enough of them.
    is_worth = size * attack.max_evaluations >= 1_000_000 and size >= 2 * attack.num_slots(micro_batch)
    assert is_worth or num_shards(grid, size) <= 16 * num_actors or size in (block, 100_000)


def test_what_the_job_says_goes_unless_it_would_part_a_unit():
    grid = make_grid_of(100)
    attack = DifferentialEvolutionAttackSettings().build()
    assert choose_cells_per_shard(grid, attack, 4, 128, wanted=3) == 3
    assert choose_cells_per_shard(grid, sharing(True), 4, 128, wanted=3) == 10
    assert choose_cells_per_shard(grid, sharing(True), 4, 128, wanted=25) == 25
    assert (grid.block(shares_classes=True, shares_ks=False), grid.block(shares_classes=False, shares_ks=False)) == (
        10,
        1,
    )


@pytest.fixture
def rates(monkeypatch):
    """Speeds that need no measuring."""
    known = {"mlp": 1000.0, "second": 250.0}
    monkeypatch.setattr(sfi_ray.plan, "forward_rate", lambda classifier, *_: known[classifier.name])
    return known


def make_job(**changes):
    return Job.model_validate(
        {
            "name": "a",
            "dataset": "digits",
            "classifiers": ["mlp", {"name": "second", "architecture": "mlp"}],
            "backgrounds": ["black", "white"],
            "k": [1, 5],
            "replicates": 3,
            "attack": {"population_size": 50, "generations": 9},
            "cluster": {"actors": 4, "cells_per_shard": 7},
            **changes,
        }
    )


def plan_of(job):
    grid = make_grid(job, DIGITS, tuple(GridClassifier(spec.name, "") for spec in job.classifiers))
    return make_plan(job, DIGITS, grid)


def test_a_plan_adds_up(rates):
    plan = plan_of(make_job())
    assert plan.num_cells == 2 * 2 * 2 * 3 * 10
    assert plan.num_groups == 2 * 2 * 2
    assert plan.num_shards == 2 * math.ceil(120 / 7)
    assert plan.num_actors == 4
    assert plan.max_evaluations == 240 * 500
    assert plan.rates == rates
    # Of 18 shards of each network two actors search those of the first, then help with those of the second.
    assert (120 * 500 / 1000 + 120 * 500 / 250) / 4 <= plan.seconds <= (120 * 500 / 1000 + 120 * 500 / 250) / 4 + 7 * 2
    assert plan.num_busy == 4


@pytest.mark.usefixtures("rates")
def test_one_cell_takes_as_long_on_any_number_of_actors():
    one = {"classifiers": "mlp", "backgrounds": "black", "k": 1, "replicates": 1, "target_classes": [3]}
    for actors in (1, 4, 64):
        plan = plan_of(make_job(**one, cluster={"actors": actors}))
        assert (plan.num_cells, plan.num_shards, plan.num_busy, plan.num_actors) == (1, 1, 1, actors)
        assert plan.seconds == pytest.approx(500 / 1000)


@pytest.mark.usefixtures("rates")
def test_the_slower_network_decides_where_each_has_one_cell():
    plan = plan_of(make_job(backgrounds="black", k=1, replicates=1, target_classes=[3], cluster={"actors": 4}))
    assert plan.num_busy == 2
    assert plan.seconds == pytest.approx(500 / 250)


@pytest.mark.usefixtures("rates")
def test_classes_that_are_searched_together_keep_one_actor_busy():
    whole = {"classifiers": "mlp", "backgrounds": "black", "replicates": 1, "cluster": {"actors": 8}}
    attack = {"kind": "map_elites", "max_evaluations": 100}
    assert plan_of(make_job(**whole, k=1, attack=attack)).num_busy == 1
    assert plan_of(make_job(**whole, k=1, attack=attack)).seconds == pytest.approx(10 * 100 / 1000)
    assert plan_of(make_job(**whole, k=[1, 5], attack=attack)).num_busy == 2
    growing = {**attack, "begins_with": "smaller_k"}
    assert plan_of(make_job(**whole, k=[1, 5], attack=growing)).num_busy == 1


@pytest.mark.parametrize(
    ("cells", "block", "seconds", "actors", "expected"),
    [
        (1, 1, [2.0], 8, (1, 2.0)),
        (8, 1, [2.0], 8, (8, 2.0)),
        (9, 1, [2.0], 8, (8, 4.0)),
        (9, 3, [2.0], 8, (3, 6.0)),
        (10, 4, [1.0], 2, (2, 6.0)),
        (4, 4, [1.0, 5.0], 2, (2, 20.0)),
        (4, 1, [1.0, 5.0], 2, (2, 14.0)),
        (10**12, 1, [1.0], 10, (10, 1e11)),
        (1, 100, [1.0, 2.0, 3.0], 1, (1, 6.0)),
    ],
)
def test_what_is_laid_out_by_hand(cells, block, seconds, actors, expected):
    assert schedule(cells, block, seconds, actors) == expected


@given(
    st.integers(1, 200), st.integers(1, 30), st.lists(st.floats(0.01, 100), min_size=1, max_size=4), st.integers(1, 20)
)
def test_nobody_is_idle_while_there_are_blocks(cells, block, seconds, actors):
    num_busy, spent = schedule(cells, block, seconds, actors)
    work, largest = cells * sum(seconds), min(block, cells) * max(seconds)
    assert num_busy == min(actors, len(seconds) * math.ceil(cells / block))
    # Graham's bounds of list scheduling.
    assert max(work / actors, largest) <= spent * (1 + 1e-9)
    assert spent <= (work / actors + largest) * (1 + 1e-9)


@pytest.mark.usefixtures("rates")
def test_memory_grows_with_k_and_covers_the_weights():
    small, large = plan_of(make_job(k=1)), plan_of(make_job(k=50))
    assert large.candidate_bytes == 50 * small.candidate_bytes > 0
    weights = sum(parameter.nbytes for parameter in build("mlp", input_shape=(1, 8, 8), num_classes=10).parameters())
    assert small.classifier_bytes > weights
    wide = plan_of(make_job(k=1, compute={"micro_batch": 512}))
    narrow = plan_of(make_job(k=1, compute={"micro_batch": 2}))
    assert wide.candidate_bytes > narrow.candidate_bytes
    assert wide.classifier_bytes > narrow.classifier_bytes


@pytest.mark.usefixtures("rates")
def test_without_a_number_of_actors_this_machines_cores_are_counted():
    plan = plan_of(make_job(cluster={}))
    assert plan.num_actors == os.cpu_count()
    assert plan_of(make_job(cluster={}, compute={"threads": 1024})).num_actors == 1


def test_a_plan_trains_nothing_and_needs_no_images(rates, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("a plan reads no images")

    monkeypatch.setattr("sfi_ray.data.load_dataset", forbidden)
    monkeypatch.setattr("sfi_ray.models.train_classifier", forbidden)
    assert plan_of(make_job()).rates == rates


@pytest.mark.usefixtures("rates")
def test_a_network_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="nothing_like_it"):
        plan_of(make_job(classifiers=[{"name": "mlp", "architecture": "nothing_like_it"}]))


def test_measuring_leaves_the_number_of_threads_as_it_was(toy_gray):
    before = torch.get_num_threads()
    forward_rate(toy_gray.classifier, threads=before + 1, seconds=0.01)
    assert torch.get_num_threads() == before


def test_a_rate_is_images_over_time(toy_gray, monkeypatch):
    now = 0.0

    def slow(images):
        nonlocal now
        now += 0.25
        return images.new_zeros(len(images), 4)

    monkeypatch.setattr(toy_gray.classifier, "log_probs", slow)
    monkeypatch.setattr(sfi_ray.plan, "time", SimpleNamespace(perf_counter=lambda: now))
    assert forward_rate(toy_gray.classifier, threads=1, seconds=1.5) == 32 / 0.25


def test_threads_are_restored_when_the_classifier_fails(monkeypatch):
    classifier = Classifier(torch.nn.Flatten(), name="flat", input_shape=(1, 2, 2), num_classes=4, is_trained=False)

    def broken(_images):
        raise RuntimeError("out of order")

    monkeypatch.setattr(classifier, "log_probs", broken)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="out of order"):
        forward_rate(classifier, threads=2)
    assert torch.get_num_threads() == before


def test_networks_of_other_libraries_are_planned_without_their_weights(monkeypatch):
    monkeypatch.setattr(sfi_ray.plan, "forward_rate", lambda *_: 100.0)
    info = dataset_info(DatasetSpec(name="imagenet"))
    job = make_job(
        dataset="imagenet",
        classifiers=[
            {"torchvision": "squeezenet1_0", "weights": "DEFAULT"},
            {"timm": "mobilenetv3_small_050.lamb_in1k"},
        ],
        target_classes=[0, 1],
    )
    grid = make_grid(job, info, tuple(GridClassifier(spec.name, "") for spec in job.classifiers))
    plan = make_plan(job, info, grid)
    assert list(plan.rates) == ["squeezenet1_0", "mobilenetv3_small_050.lamb_in1k"]
    assert plan.classifier_bytes > 1_248_424 * 4
    with pytest.raises(InputError, match=r"\(3, 224, 224\), the data set has \(1, 8, 8\)"):
        plan_of(make_job(classifiers=[{"torchvision": "squeezenet1_0", "weights": "DEFAULT"}]))


def test_what_proposing_takes_is_planned_for(monkeypatch):
    values = {"name": "x", "dataset": "digits", "classifiers": "mlp", "k": 3, "cluster": {"actors": 1}}
    job = Job.model_validate({**values, "attack": {"kind": "nevergrad", "optimizer": "OnePlusOne"}})
    grid = make_grid(job, DIGITS, (GridClassifier("mlp", "f"),))
    assert math.isfinite(job.attack.build().proposal_rate((1, 8, 8), 3))
    monkeypatch.setattr(sfi_ray.plan, "forward_rate", lambda *_: 300.0)
    monkeypatch.setattr("sfi_ray.attacks.nevergrad.NevergradAttack.proposal_rate", lambda *_: 100.0)
    plan = make_plan(job, DIGITS, grid)
    assert plan.rates == {"mlp": pytest.approx(75.0)}
    assert plan.seconds == pytest.approx(10 * 10_000 / 75.0)
    plain = make_plan(Job.model_validate(values), DIGITS, grid)
    assert plain.rates == {"mlp": 300.0}


def test_the_rate_of_what_reuses_the_background_is_that_of_sparse_images(toy_gray, monkeypatch):
    classifier = toy_gray.classifier.running(toy_gray.classifier.runtime.changed(reuses_background=True))
    seen = []
    monkeypatch.setattr(
        classifier, "sparse_log_probs", lambda spots, levels, backgrounds: seen.append((spots, levels, backgrounds))
    )
    assert forward_rate(classifier, 1, pixels=3, seconds=0.01) > 0
    assert {tuple(spots.shape) for spots, _, _ in seen} == {(classifier.micro_batch, 3)}


def test_an_unknown_optimiser_is_refused_by_a_plan():
    job = Job.model_validate(
        {"name": "x", "dataset": "digits", "classifiers": "mlp", "k": 3}
        | {"attack": {"kind": "nevergrad", "optimizer": "CMAA"}}
    )
    with pytest.raises(InputError, match="did you mean"):
        make_plan(job, DIGITS, make_grid(job, DIGITS, (GridClassifier("mlp", "f"),)))


def request_of(job):
    grid = make_grid(job, DIGITS, tuple(GridClassifier(spec.name, "") for spec in job.classifiers))
    return tuning_request(job, grid, job.attack.build(), DIGITS.shape)


LONG_AUTO = {
    "attack": {"population_size": 100, "generations": 3000},
    "replicates": 10,
    "compute": {"precision": "measured"},
}
LONG = {"k": 1, "attack": {"population_size": 100, "generations": 3000}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"k": 1, "replicates": 100}, None),
        ({**LONG, "replicates": 1}, None),  # 20 cells, 6 million images of 64 elements
        ({**LONG, "replicates": 2}, ("auto", None, False)),
        ({**LONG, "compute": {"precision": "float32"}}, ("float32", None, False)),
        ({**LONG, "compute": {"precision": "bfloat16"}}, ("bfloat16", None, False)),
        ({**LONG, "compute": {"micro_batch": 8}}, ("auto", 8, False)),
        ({**LONG, "compute": {"precision": "float32", "micro_batch": 8}}, None),
        ({"compute": {"precision": "measured"}}, ("measured", None, False)),
        ({"compute": {"precision": "measured", "micro_batch": 8}}, ("measured", 8, False)),
        ({"compute": {"precision": "measured"}, "attack": {"kind": "gradient"}}, ("measured", None, True)),
        ({"compute": {"precision": "measured"}, "attack": {"kind": "inversion"}, "replicates": 1}, None),
    ],
)
def test_what_is_measured_before_a_search(changes, expected):
    request = request_of(make_job(**changes))
    assert (request and (request.precision, request.micro_batch, request.needs_gradients)) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # 64 micro-batches of n images are 64 n / 100 cells; an eighth of them have to be there.
        ({"replicates": 1, "k": 1}, 128),  # 20 cells
        ({"replicates": 1, "k": [1, 5]}, 128),
        ({"replicates": 4, "k": 1}, 512),
        ({"replicates": 4, "k": {"low": 1, "high": 4}}, 128),
        ({"replicates": 1000, "k": 1}, 2**14),
    ],
)
def test_a_micro_batch_is_no_larger_than_what_the_cells_fill(changes, expected):
    changes = {"attack": {"population_size": 100, "generations": 10}, "compute": {"precision": "measured"}, **changes}
    assert request_of(make_job(**changes)).most_images == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"replicates": 1, "k": 1}, 2048),  # 20 cells with 100 candidates each
        ({"replicates": 1, "k": [1, 5]}, 2048),
        ({"replicates": 2, "k": 1}, 4096),
        ({"replicates": 1, "k": 1, "attack": {"kind": "map_elites"}}, 256),
        ({"replicates": 4, "k": {"low": 1, "high": 4}}, 2048),
        ({"replicates": 4, "k": {"low": 1, "high": 4}, "attack": {"kind": "map_elites"}}, 1024),  # which mixes k
        ({"replicates": 1, "k": 1, "attack": {"population_size": 1_000_000}}, 2**20),
    ],
)
def test_the_images_of_a_generation_are_those_of_all_cells_searched_together(changes, expected):
    changes = {"attack": {"population_size": 100, "generations": 10}, "compute": {"precision": "measured"}, **changes}
    assert request_of(make_job(**changes)).images_together == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"k": 3, **LONG_AUTO}, ((3,), 3)),
        ({"k": [1, 5, 25], **LONG_AUTO}, ((1, 5, 25), 11)),
        ({"k": [*range(1, 10)], **LONG_AUTO}, ((), 1)),
        ({"k": 3, **LONG_AUTO, "backgrounds": [f"#{gray:02x}{gray:02x}{gray:02x}" for gray in range(17)]}, ((), 1)),
        ({"k": {"low": 1, "high": 4}, **LONG_AUTO}, ((), 1)),
        ({"k": 3, "compute": {"precision": "measured"}}, ((), 1)),
    ],
)
def test_pixels_count_where_a_search_is_long_and_they_are_of_few_numbers(changes, expected):
    request = request_of(make_job(**changes))
    assert (request.ks, request.mean_k) == expected


@pytest.mark.usefixtures("rates")
def test_a_plan_computes_as_a_launch_would(monkeypatch):
    seen = []

    def choosing(classifier, request):
        runtime = classifier.runtime.changed(micro_batch=4)
        seen.append((classifier.name, request.precision))
        return Choice(runtime=runtime, rate=2, rate_by_rule=1, seconds=0)

    monkeypatch.setattr(sfi_ray.plan, "tune", choosing)
    measured = plan_of(make_job(compute={"precision": "measured"}))
    assert seen == [("mlp", "measured"), ("second", "measured")]
    assert measured.candidate_bytes == plan_of(make_job(compute={"micro_batch": 4})).candidate_bytes
