"""How often a generation waits for the device, and how many operations it takes, counted as torch dispatches them."""

import traceback
import warnings
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sfi_ray.search import (
    Answer,
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    Gradients,
    GradientSearch,
    GradientSettings,
    MapElites,
    MapElitesSettings,
    NewCells,
    SearchSpace,
    SelfAdaptiveEvolution,
    SelfAdaptiveSettings,
    SparseRandomSearch,
    SparseRandomSettings,
)

#: What has a result whose value or shape the host needs.
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "repeat_interleave"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
#: Where the host counts for itself, with tensors of its own.
ON_HOST = {("schedule.py", None), ("state.py", "of"), ("sparse_random.py", "_within_budget")}
#: What only looks at the same memory otherwise.
VIEWS = {
    *("view", "expand", "unsqueeze", "squeeze", "select", "slice", "split", "split_with_sizes", "unbind", "transpose"),
    *("permute", "t", "alias", "detach", "_unsafe_view", "as_strided", "lift_fresh", "_reshape_alias"),
}


class Counting(TorchDispatchMode):
    """Counts operations, and those among them that wait, outside of what the host does for itself."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits = 0, Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.operations += name not in VIEWS
        is_mask = name in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        if name in WAITING or is_mask:
            frame = next(one for one in reversed(traceback.extract_stack()) if "/sfi_ray/search/" in one.filename)
            file = frame.filename.rsplit("/", 1)[1]
            if not ON_HOST & {(file, None), (file, frame.name)}:
                self.waits[f"{file}:{frame.lineno} {name}"] += 1
        return func(*args, **(kwargs or {}))


def answered(query, num_classes, space):
    """Any answer: what a generation does must not depend on it."""
    device = query.owners.device
    if isinstance(query.wanted, Gradients):
        shape = (len(query), space.channels, space.height, space.width)
        return Answer(torch.randn(len(query), device=device), torch.randn(shape, device=device))
    return Answer(torch.randn(len(query), num_classes, device=device).log_softmax(dim=1))


def searches(k, device="cpu"):
    space = SearchSpace(28, 28, 1, k, 10)
    return {
        "de": DifferentialEvolution(space, DifferentialEvolutionSettings(population_size=20), device),
        "jde": SelfAdaptiveEvolution(space, SelfAdaptiveSettings(population_size=20), device),
        "map_elites": MapElites(space, MapElitesSettings(), device),
        "map_elites with gradients": MapElites(space, MapElitesSettings(gradient_share=0.25), device),
        "gradient": GradientSearch(space, GradientSettings(), device),
        "sparse_rs": SparseRandomSearch(space, SparseRandomSettings(num_candidates=8), device),
    }


def begun(search, num_generations=25):
    """Returns a search of ten classes that has made some generations."""
    classes = torch.arange(10)
    search.admit(NewCells(classes + 7, classes, torch.full((10, 1), 127.0), groups=torch.zeros_like(classes)))
    for _ in range(num_generations):
        generation(search)
    return search


def generation(search):
    while True:
        search.tell(answered(search.ask(), 10, search.space))
        if not search.is_midway:
            return


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", searches(1))
def test_a_generation_waits_for_the_device_at_most_once(name, k):
    torch.manual_seed(1)
    search = begun(searches(k)[name])
    with Counting() as counted:
        generation(search)
    assert counted.waits.total() <= (0 if name in {"de", "jde", "sparse_rs"} else 1), counted.waits


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", searches(1))
def test_a_generation_waits_for_a_gpu_at_most_once(name):
    search = begun(searches(5, "cuda")[name])
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            generation(search)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    assert len(waits) <= 1, [f"{warning.filename}:{warning.lineno}" for warning in waits]


@pytest.mark.parametrize(
    ("name", "most"), [("de", 150), ("sparse_rs", 170), ("map_elites", 700), ("map_elites with gradients", 1050)]
)
def test_a_generation_takes_few_operations(name, most):
    """On small tensors it is their number that takes time, on a GPU above all."""
    search = begun(searches(5)[name])
    with Counting() as counted:
        generation(search)
    assert counted.operations <= most
