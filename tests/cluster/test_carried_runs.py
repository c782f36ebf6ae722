"""A run of a network that was folded, filled or freed on the way goes on from its folder, to the same rows."""

import shutil
import sys

import pytest

from sfi_ray import launch
from tests.cluster.conftest import assert_complete, make_job, outcome
from tests.models import brought


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    shutil.copy(brought.__file__, tmp_path)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("brought", None)


@pytest.mark.parametrize(
    "case",
    [
        brought.weight_norm_hook,
        brought.weight_norm_parametrized,
        brought.spectral_norm_hook,
        brought.spectral_norm_parametrized,
        brought.pruned,
        brought.lazy,
        brought.data_parallel,
        brought.half,
        brought.locked,
        brought.keeps_its_last_activation,
    ],
    ids=lambda case: case.__name__,
)
def test_it_is_resumed_to_the_same_rows(tmp_path, case):
    changes = {"classifiers": {"name": "theirs", "factory": f"brought:{case.__name__}"}, "k": 1, "backgrounds": "gray"}
    job = make_job(tmp_path / "runs", **changes)
    expected = outcome(launch(job, in_process=True))
    parts = sorted((tmp_path / "runs/test/results").iterdir())
    for part in parts[::2]:
        part.unlink()
    run = launch(job, in_process=True)
    assert_complete(run)
    assert outcome(run).equals(expected)


@pytest.mark.slow
@pytest.mark.ray
def test_it_is_searched_alike_over_ray(tmp_path):
    names = ("weight_norm_parametrized", "locked", "hook_that_keeps_the_last_activation")
    changes = {
        "classifiers": [{"name": name, "factory": f"brought:{name}"} for name in names],
        "k": 1,
        "backgrounds": "gray",
        "cluster": {"flush_seconds": 0, "cells_per_shard": 4, "actors": 2},
    }
    expected = outcome(launch(make_job(tmp_path / "a", **changes), in_process=True))
    assert outcome(launch(make_job(tmp_path / "b", **changes))).equals(expected)
