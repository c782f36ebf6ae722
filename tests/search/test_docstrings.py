"""The ask/tell loops in the docstrings of the searches run."""

import doctest
import importlib

import pytest

MODULES = ["differential_evolution", "self_adaptive", "sparse_random", "gradient.search", "map_elites.search"]


@pytest.mark.parametrize("name", MODULES)
def test_the_loop_in_its_docstring_runs(name):
    done = doctest.testmod(importlib.import_module(f"sfi_ray.search.{name}"), raise_on_error=True)
    assert done.attempted >= 8
    assert done.failed == 0
