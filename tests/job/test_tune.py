"""Trials from a parameter space: what is drawn, and what is refused."""

import math

import numpy as np
import pytest

from sfi_ray.errors import InputError
from sfi_ray.job import Domain, TuneSettings, parse_any

JOB = """\
name: tuned
dataset: digits
classifier: mlp
rounds: {number: 3, per_class: 2}
k: {low: 1, high: 20}
attack: {kind: map_elites, max_evaluations: 20}
tune:
  param_space:
    classifier.training.learning_rate: {loguniform: [1e-4, 1e-1]}
    rounds.per_class: {grid: [2, 3]}
    attack.max_evaluations: {randint: [10, 20]}
  num_samples: 2
  scheduler: {kind: asha}
"""


def values_of(job):
    return {name: job.drawn(name) for name in job.trial_names}


def test_a_trial_is_the_job_with_the_values_that_it_draws():
    job = parse_any(JOB)
    assert job.trial_names == ("sample_0", "sample_1", "sample_2", "sample_3")
    assert [values["rounds.per_class"] for values in values_of(job).values()] == [2, 3, 2, 3]
    for name, values in values_of(job).items():
        trial = job.trial(name)
        assert trial.classifier.training.learning_rate == values["classifier.training.learning_rate"]
        assert (trial.rounds.per_class, trial.rounds.number) == (values["rounds.per_class"], 3)
        assert trial.attack.max_evaluations == values["attack.max_evaluations"]
        assert trial.tune is None
        assert "tune" not in trial.identity()


def test_values_are_what_the_trial_reads_and_not_what_yaml_takes_for_text():
    job = parse_any(JOB.replace("{loguniform: [1e-4, 1e-1]}", "{grid: [1e-4, 1e-1]}"))
    rates = [values["classifier.training.learning_rate"] for values in values_of(job).values()]
    assert rates == [1e-4, 1e-4, 1e-1, 1e-1] * 2


def test_the_seed_the_key_and_the_number_alone_decide_a_value():
    job, other = parse_any(JOB), parse_any(JOB.replace("classifier: mlp", "classifier: mlp\nseed: 1"))
    assert values_of(parse_any(JOB)) == values_of(job)
    assert not {tuple(values.values()) for values in values_of(job).values()} & {
        tuple(values.values()) for values in values_of(other).values()
    }
    more = job.model_copy(update={"tune": job.tune.model_copy(update={"num_samples": 5})})
    assert len(more.trial_names) == 10
    assert {name: more.drawn(name) for name in job.trial_names} == values_of(job)
    without = values_of(parse_any(JOB.replace("    attack.max_evaluations: {randint: [10, 20]}\n", "")))
    rate = "classifier.training.learning_rate"
    assert [values[rate] for values in without.values()] == [values[rate] for values in values_of(job).values()]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{choice: [2, 3, -3]}", "rounds.per_class: should be greater than or equal to 1 (found -3)"),
        ("{uniform: [2, 2.5]}", "rounds.per_class: should be a whole number"),
        ("{randint: [0, 3]}", "rounds.per_class: should be greater than or equal to 1 (found 0)"),
    ],
)
def test_whatever_a_search_may_draw_is_checked_before_it_begins(wrong, message):
    searched = JOB.replace("{grid: [2, 3]}", wrong).replace("scheduler: {kind: asha}", "search: {kind: optuna}")
    with pytest.raises(InputError) as caught:
        parse_any(searched, "job.yaml")
    assert caught.value.args[0].startswith(f"job.yaml:10: {message}"), caught.value.args


def test_a_metric_that_the_only_model_lacks_is_refused():
    only = JOB.replace("number: 3", "number: 1").replace("scheduler: {kind: asha}", "metric: defence")
    with pytest.raises(InputError, match=r"tune.metric: defence is an accuracy of later models, and there is one"):
        parse_any(only)


def drawn(domain, number=4000):
    settings = TuneSettings(param_space={"key": domain}, num_samples=number)
    return [settings.sample(0, trial)["key"] for trial in range(settings.num_trials)]


def test_grids_are_combined_and_the_last_one_varies_fastest():
    grids = {"a": {"grid": [1, 2]}, "b": {"grid": [3, 4, 5]}}
    settings = TuneSettings(param_space=grids, num_samples=2)
    found = [tuple(settings.sample(0, trial).values()) for trial in range(settings.num_trials)]
    assert found == [(1, 3), (1, 4), (1, 5), (2, 3), (2, 4), (2, 5)] * 2


def test_every_form_draws_as_its_name_says():
    assert set(drawn({"randint": [3, 6]})) == {3, 4, 5}
    assert set(drawn({"lograndint": [1, 100]})) >= {1, 2, 3, 99}
    assert set(drawn({"choice": ["a", "b"]})) == {"a", "b"}
    even, log = np.array(drawn({"uniform": [2, 4]})), np.array(drawn({"loguniform": [1e-4, 1]}))
    assert even.min() >= 2
    assert even.max() <= 4
    assert abs(np.median(even) - 3) < 0.1
    assert log.min() >= 1e-4
    assert log.max() <= 1
    assert abs(np.median(np.log10(log)) + 2) < 0.2
    assert abs(np.mean(np.array(drawn({"lograndint": [1, 100]})) < 10) - 0.5) < 0.05


@pytest.mark.parametrize("form", ["uniform", "loguniform", "randint", "lograndint"])
def test_no_draw_reaches_the_high_end(form):
    domain = Domain(**{form: [3, 7]})
    assert domain.value(0.0) == 3
    assert domain.value(math.nextafter(1.0, 0.0)) <= (6 if form.endswith("randint") else 7)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "rounds.per_class",
            "rounds.per_clas",
            10,
            "no key 'rounds.per_clas' can vary between trials; did you mean 'ro",
        ),
        ("classifier.training", "training", 9, "did you mean 'classifier.training.learning_rate'?"),
        ("rounds.per_class", "cluster.actors", 10, "keys of attack, backgrounds, k, rounds, seed, verification and"),
        ("loguniform", "loguniforms", 9, "learning_rate.loguniforms'; did you mean 'loguniform'?"),
        ("[2, 3]", "[2, -3]", 10, "trial sample_1: rounds.per_class: should be greater than or equal to 1 (found -3)"),
        ("randint", "uniform", 11, "trial sample_0: attack.max_evaluations: should be a whole number"),
        ("[10, 20]", "[20, 10]", 11, "randint: the low end, 20, is not below the high end, 10; swap them"),
        ("[1e-4, 1e-1]", "[0, 1e-1]", 9, "should be greater than 0 (found 0)"),
        ("{grid: [2, 3]}", "3", 10, "should be a mapping with keys among grid, choice, uniform"),
        ("{grid: [2, 3]}", "{grid: [2], choice: [3]}", 10, "give one of grid, choice, uniform"),
        ("num_samples: 2", "num_samples: 9999", 7, "make 19,998 trials, more than 10,000; lower them"),
        ("scheduler:", "metric: reatack\n  scheduler:", 13, "did you mean 'reattack'?"),
        ("number: 3", "number: 1", 1, "none of the 1 rounds is left to save"),
        ("scheduler: {kind: asha}", "search: {kind: optuna}", 7, "'rounds.per_class' has a grid, whose values are all"),
        ("scheduler: {kind: asha}", "search: {kind: optuna, sampler: gb}", 13, "should be 'gp' or 'tpe' (found 'gb')"),
        ("kind: asha", "kind: asha, grace_period: 2", 1, "after round 2, none of the 3 rounds is left to save"),
        ("tune:", "trials: {a: {}}\ntune:", 1, "`trials` names trials, and `tune` draws them"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_mend(old, new, line, message):
    assert old in JOB
    with pytest.raises(InputError) as caught:
        parse_any(JOB.replace(old, new, 1), "job.yaml")
    (said,) = caught.value.args
    assert said.startswith(f"job.yaml:{line}: "), said
    assert message in said
