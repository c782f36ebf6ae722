"""Theorems against searches on the same fitted model: the optimum of a linear one is never beaten, and is reached."""

import pytest

from sfi_ray.comparison import compare, fit_pair
from sfi_ray.data import DatasetSpec
from sfi_ray.errors import InputError

DIGITS = DatasetSpec(name="digits")


def test_searches_reach_the_linear_optimum_and_never_beat_it():
    pair = fit_pair(DIGITS, "linear", "3", "8", hidden_units=1, seed=0)
    compared = compare(pair, [5, 0, 1, 3], evaluations=4000)
    optimum = compared.guaranteed.log_odds
    assert compared.ks == (0, 1, 3, 5)
    assert set(compared.found) == {"de", "map_elites"}
    for found in compared.found.values():
        assert (found <= optimum + 1e-9).all()
        assert found[0] == pytest.approx(optimum[0])
    assert compared.found["map_elites"] == pytest.approx(optimum)
    assert (compared.printed <= optimum + 1e-9).all()


def test_other_models_are_bounded_from_below_only():
    pair = fit_pair(DIGITS, "kernel", "0", None, hidden_units=1, seed=0)
    assert pair.test_accuracy > 0.95
    compared = compare(pair, [1, 4], evaluations=0)
    assert compared.printed is None
    assert compared.found == {}
    assert compared.guaranteed.log_odds == pytest.approx(pair.model.log_odds(compared.guaranteed.images))


@pytest.mark.parametrize(
    ("dataset", "first", "second", "message"),
    [
        (DIGITS, "3", "3", "both classes are '3'"),
        (DIGITS, "3", "x", "target class 'x' does not exist in 'digits'"),
        (DatasetSpec(name="cifar10"), "cat", "dog", "gray images, and those of 'cifar10' have 3 channels"),
        (DatasetSpec(name="shapes", shape=(1, 2, 2), class_names=("a", "b")), "a", "b", "has no images"),
    ],
)
def test_bad_input_is_named(dataset, first, second, message, monkeypatch):
    monkeypatch.delenv("SFI_RAY_DATA", raising=False)
    with pytest.raises(InputError, match=message):
        fit_pair(dataset, "linear", first, second, hidden_units=1, seed=0)
