"""Trials whose values follow from the results of earlier ones: what Optuna is told, and what it is asked."""

import itertools

import numpy as np
import pytest

from sfi_ray.errors import InputError
from sfi_ray.job import RoundsJob
from sfi_ray.rounds import parameter_search
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.rounds.parameter_search import with_trials

RATE, LOSS, PIXELS = "classifier.training.learning_rate", "rounds.loss", "rounds.per_class"
SPACE = {
    RATE: {"loguniform": [1e-4, 1e-1]},
    LOSS: {"choice": ["outlier_class", "outlier_exposure"]},
    PIXELS: {"randint": [1, 9]},
}


def make_job(num_samples=8, batch_size=3, sampler="gp", metric="natural", space=SPACE, seed=0):
    search = {"kind": "optuna", "sampler": sampler, "batch_size": batch_size}
    tune = {"param_space": space, "num_samples": num_samples, "metric": metric, "search": search}
    values = {"name": "job", "dataset": "digits", "classifier": "mlp", "rounds": {"number": 2, "per_class": 2}, "k": 3}
    return RoundsJob.model_validate({**values, "tune": tune, "seed": seed})


class Model:
    """The latest model of a trial, with the accuracies that count here."""

    def __init__(self, **shares):
        self.shares = shares


def ended(job, score, done=None):
    """Results of all trials of a job, of which only some have ended."""
    trials = {}
    for name in job.trial_names:
        drawn = job.drawn(name)
        models = [Model(**score(drawn))]
        is_complete = done is None or name in done
        trials[name] = TrialResults(name, 2, models, [], {}, is_complete=is_complete, drawn=drawn)
    return trials


def run(job, score):
    """All trials of a job, each batch after the results of those before."""
    results = {}
    while True:
        job = with_trials(job, results)
        if len(job.trial_names) == len(results):
            return job
        results = ended(job, score)


def near(drawn):
    """Best at a learning rate of 0.01, one loss and five cells a class."""
    distance = np.log10(drawn[RATE] / 0.01) ** 2 + (drawn[PIXELS] - 5) ** 2 / 16 + (drawn[LOSS] != "outlier_exposure")
    return {"natural": float(np.exp(-distance)), "re-attack": float(1 - np.exp(-distance))}


def test_a_batch_is_drawn_only_when_all_trials_before_have_ended():
    job = with_trials(make_job())
    assert job.trial_names == ("sample_0", "sample_1", "sample_2")
    two = ended(job, near, done=("sample_0", "sample_2"))
    assert with_trials(make_job(), two).trial_names == job.trial_names
    more = with_trials(make_job(), ended(job, near))
    assert len(more.trial_names) == 6
    assert [more.drawn(name) for name in job.trial_names] == [job.drawn(name) for name in job.trial_names]
    assert len(run(make_job(), near).trial_names) == 8, "the last batch is smaller"


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_values_lie_in_the_space_and_a_trial_reads_them(sampler):
    job = run(make_job(10, 5, sampler), near)
    for name in job.trial_names:
        trial, values = job.trial(name), job.drawn(name)
        assert 1e-4 <= trial.classifier.training.learning_rate <= 1e-1
        assert trial.classifier.training.learning_rate == values[RATE] == float(f"{values[RATE]:.6g}")
        assert trial.rounds.loss in SPACE[LOSS]["choice"]
        assert 1 <= trial.rounds.per_class < 9


def test_the_seed_and_the_results_alone_decide_the_values():
    def values(job):
        return [job.drawn(name) for name in job.trial_names]

    one = values(run(make_job(6), near))
    assert values(run(make_job(6), near)) == one
    assert values(run(make_job(6, seed=1), near))[:3] != one[:3]
    other = values(run(make_job(6), lambda drawn: {"natural": 1 - near(drawn)["natural"]}))
    assert other[:3] == one[:3]
    assert other[3:] != one[3:]


def test_values_that_trials_have_are_kept_whatever_optuna_would_draw_today(monkeypatch):
    results = ended(with_trials(make_job(seed=1)), near)
    job = with_trials(make_job(), results)
    for name, trial in results.items():
        assert job.drawn(name) == trial.drawn
    monkeypatch.setattr(parameter_search, "derive_seed", lambda seed, text: 5)
    assert [job.drawn(name) for name in results] == [with_trials(make_job(), results).drawn(name) for name in results]


def test_more_samples_add_trials_to_those_that_are_there():
    job = run(make_job(4), near)
    results = ended(job, near)
    more = with_trials(make_job(8), results)
    assert len(more.trial_names) == 6, "the second batch is filled up first"
    assert [more.drawn(name) for name in job.trial_names] == [job.drawn(name) for name in job.trial_names]


@pytest.mark.parametrize(
    "space",
    [
        {RATE: SPACE[RATE], LOSS: SPACE[LOSS]},
        {**SPACE, "rounds.number": {"choice": [2, 3]}},
        {**SPACE, LOSS: {"choice": ["outlier_exposure"]}},
        {**SPACE, PIXELS: {"randint": [90, 99]}},
        {**SPACE, PIXELS: {"choice": [90, 99]}},
    ],
)
def test_trials_of_another_space_are_refused(space):
    results = ended(with_trials(make_job()), near)
    with pytest.raises(
        InputError, match=r"trial sample_\d of an earlier launch has other values \(classifier.*--fresh"
    ):
        with_trials(make_job(space=space), results)


@pytest.mark.parametrize(("sampler", "metric"), [("gp", "natural"), ("tpe", "reattack")])
def test_the_search_finds_better_values_than_draws_without_results(sampler, metric):
    """Of 16 trials, the best lies nearer to the optimum than the best of 16 random ones, in the mean of seeds."""

    def best(job):
        return max(near(job.drawn(name))["natural"] for name in job.trial_names)

    guided, random = [], []
    for seed in range(4):
        job = make_job(16, 4, sampler, metric, seed=seed)
        guided.append(best(run(job, near)))
        tune = job.tune.model_copy(update={"search": None})
        random.append(best(job.model_copy(update={"tune": tune})))
    assert np.mean(guided) > np.mean(random)
    assert np.mean(guided) > 0.8


def test_a_trial_without_the_metric_is_left_out_and_so_are_choices_that_yaml_takes_for_text():
    space = {RATE: {"choice": ["1e-4", "1e-3"]}}
    job = make_job(4, 2, space=space)
    job = run(job, lambda drawn: {} if drawn[RATE] == 1e-4 else {"natural": 0.5})
    assert {job.drawn(name)[RATE] for name in job.trial_names} <= {1e-4, 1e-3}


def test_every_option_and_both_ends_are_checked_before_anything_is_drawn():
    job = make_job(space={**SPACE, "rounds.number": {"choice": [2, 3, 4]}})
    corners = job.tune.corners()
    assert len(corners) == 3
    for key, ends in {RATE: {1e-4, 1e-1}, PIXELS: {1, 8}, "rounds.number": {2, 3, 4}}.items():
        assert {corner[key] for corner in corners} == ends
    pairs = itertools.pairwise(corner[LOSS] for corner in corners)
    assert all(one != other for one, other in pairs)


def test_without_optuna_the_job_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(parameter_search, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"tune.search: it needs the package optuna; .*--extra optuna"):
        with_trials(make_job())
