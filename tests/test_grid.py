import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.grid import Grid, GridClassifier, derive_seed, num_shards, whole_blocks
from sfi_ray.types import Background

BLACK, WHITE, RED = Background("black", (0, 0, 0)), Background("white", (255, 255, 255)), Background("red", (255, 0, 0))
GRID = Grid(
    classifiers=(GridClassifier("mlp", "f1"), GridClassifier("cnn", "f2")),
    backgrounds=(BLACK, WHITE),
    target_classes=((0, "zero"), (3, "three"), (7, "seven")),
    ks=(1, 5),
    replicates=2,
    seed=11,
    method={"attack": {"kind": "de", "generations": 10}, "precision": "float32", "input_shape": [3, 8, 8]},
)


def all_cells(grid):
    return list(grid.cells(range(len(grid))))


def ids(grid):
    """Cell id by everything that names a cell."""
    return {
        (c.classifier, c.background.name, c.k, c.replicate, c.target_class): (c.cell_id, c.seed)
        for c in all_cells(grid)
    }


@st.composite
def grids(draw):
    def some(high):
        return range(draw(st.integers(1, high)))

    ranged = draw(st.booleans())
    return Grid(
        classifiers=tuple(GridClassifier(f"c{i}", f"f{i}") for i in some(3)),
        backgrounds=tuple(Background(f"b{i}", (i,)) for i in some(3)),
        target_classes=tuple((3 * i, f"t{i}") for i in some(5)),
        ks=None if ranged else tuple(1 + 2 * i for i in some(3)),
        k_range=(2, 9) if ranged else (1, 1),
        replicates=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**63 - 1)),
        method={},
    )


@settings(deadline=None)
@given(grids())
def test_cells_are_those_of_nested_loops(grid):
    expected = [
        (classifier.name, background, k, replicate, target, name)
        for classifier in grid.classifiers
        for background in grid.backgrounds
        for k in (grid.ks or [None])
        for replicate in range(grid.replicates)
        for target, name in grid.target_classes
    ]
    cells = all_cells(grid)
    k_is_drawn = grid.ks is None
    assert [
        (c.classifier, c.background, None if k_is_drawn else c.k, c.replicate, c.target_class, c.target_name)
        for c in cells
    ] == expected
    assert [cell.index for cell in cells] == list(range(len(grid)))
    assert max(cell.k for cell in cells) <= grid.max_k
    assert len({(c.classifier, c.background, None if k_is_drawn else c.k) for c in cells}) == grid.num_groups
    names = [classifier.name for classifier in grid.classifiers]
    assert [names[cell.index // grid.cells_per_classifier] for cell in cells] == [cell.classifier for cell in cells]


@settings(deadline=None)
@given(grids(), st.randoms())
def test_a_cell_is_the_same_however_it_is_come_by(grid, random):
    cells = all_cells(grid)
    indices = [random.randrange(len(grid)) for _ in range(20)]
    assert list(grid.cells(indices)) == [cells[index] for index in indices]


def test_cell_ids_are_unique_over_a_large_grid():
    grid = replace(
        GRID,
        classifiers=tuple(GridClassifier(f"c{i}", f"f{i}") for i in range(3)),
        target_classes=tuple((i, str(i)) for i in range(100)),
        ks=(1, 2, 11, 12, 21),
        replicates=25,
    )
    cells = all_cells(grid)
    assert len(cells) == 3 * 2 * 5 * 25 * 100
    assert len({cell.cell_id for cell in cells}) == len(cells)
    assert len({cell.cell_id[:16] for cell in cells}) == len(cells), "what a resumed run remembers of them"
    assert len({cell.seed for cell in cells}) == len(cells)


def test_a_cell_id_is_32_hexadecimal_digits():
    assert all(len(cell.cell_id) == 32 and int(cell.cell_id, 16) >= 0 for cell in all_cells(GRID))


def test_golden_cell():
    (cell,) = GRID.cells([17])
    assert (cell.classifier, cell.background, cell.k, cell.replicate, cell.target_class) == ("mlp", WHITE, 1, 1, 7)
    golden = ("860b6da0d7dd64284141f3967eb3b5cc", 5549827611719632612)
    assert (cell.cell_id, cell.seed) == golden, (
        "cell ids or seeds have changed: runs begun before cannot be resumed, and no result can be repeated. If that "
        "is wanted, say so under Breaking in CHANGELOG.md; to re-record, copy what was found into this test"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"classifiers": (GridClassifier("mlp", "f3"), GridClassifier("cnn", "f4"))},
        {"backgrounds": (Background("black", (1, 0, 0)), Background("white", (255, 254, 255)))},
        {"target_classes": ((1, "zero"), (4, "three"), (8, "seven"))},
        {"ks": (2, 6)},
        {"method": {**GRID.method, "attack": {"kind": "de", "generations": 11}}},
        {"method": {**GRID.method, "precision": "bfloat16"}},
        {"method": {**GRID.method, "input_shape": [3, 8, 9]}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_decides_a_result_decides_the_cell_ids(changes):
    before = {cell.cell_id for cell in all_cells(GRID)}
    after = {cell.cell_id for cell in all_cells(replace(GRID, **changes))}
    assert len(after) == len(before)
    assert not before & after


def test_replicates_differ_in_their_ids():
    assert len({cell.cell_id for cell in all_cells(GRID)}) == len(GRID)


def test_names_do_not_enter_cell_ids():
    renamed = replace(
        GRID,
        classifiers=(GridClassifier("other", "f1"), GridClassifier("names", "f2")),
        backgrounds=(Background("#000000", (0, 0, 0)), Background("#ffffff", (255, 255, 255))),
        target_classes=((0, "a"), (3, "b"), (7, "c")),
        method=dict(reversed(GRID.method.items())),
    )
    assert list(ids(renamed).values()) == list(ids(GRID).values())


@pytest.mark.parametrize("ks", [(1, 5), None])
def test_a_larger_job_keeps_the_cells_of_a_smaller_one(ks):
    grid = replace(GRID, ks=ks, k_range=(2, 40))
    larger = replace(
        grid,
        classifiers=(GridClassifier("new", "f0"), *grid.classifiers),
        backgrounds=(RED, *grid.backgrounds),
        target_classes=((1, "one"), *grid.target_classes, (9, "nine")),
        ks=ks and (3, *ks),
        replicates=grid.replicates + 2,
    )
    kept = ids(larger)
    assert len(kept) > len(grid)
    assert {key: kept[key] for key in ids(grid)} == ids(grid)


def test_seeds_follow_the_jobs_seed():
    other = replace(GRID, seed=12)
    for (before, seed), (after, new_seed) in zip(ids(GRID).values(), ids(other).values(), strict=True):
        assert before == after
        assert seed != new_seed


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_derived_seeds_fit_int64(seed, text):
    assert 0 <= derive_seed(seed, text) < 2**63


def test_derived_seeds_spread_over_their_range():
    seeds = np.array([derive_seed(0, str(i)) for i in range(4000)], dtype=np.float64) / 2**63
    counts, _ = np.histogram(seeds, bins=8, range=(0, 1))
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def test_drawn_k_is_uniform_within_its_range_and_reaches_both_ends():
    grid = replace(GRID, ks=None, k_range=(3, 7), replicates=250, target_classes=tuple((i, str(i)) for i in range(10)))
    drawn = np.array([cell.k for cell in grid.cells(range(grid.cells_per_classifier))])
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)
    assert grid.max_k == 7


def test_drawn_k_is_the_same_for_every_classifier_and_differs_elsewhere():
    grid = replace(GRID, ks=None, k_range=(1, 1000))
    first, second = (
        [cell.k for cell in grid.cells(range(start, start + grid.cells_per_classifier))]
        for start in (0, grid.cells_per_classifier)
    )
    assert first == second
    assert len(set(first)) > len(first) / 2
    assert [cell.k for cell in replace(grid, seed=12).cells(range(len(first)))] != first


def test_a_range_of_one_value_draws_it():
    assert {cell.k for cell in all_cells(replace(GRID, ks=None, k_range=(5, 5)))} == {5}


@settings(deadline=None)
@given(grids(), st.integers(1, 200), st.booleans())
def test_shards_are_counted_as_if_they_were_cut(grid, cells_per_shard, shares_classes):
    block = len(grid.target_classes) if shares_classes else 1
    step = max(block, cells_per_shard // block * block)
    assert num_shards(grid, cells_per_shard, block) == len(grid.classifiers) * len(
        range(0, grid.cells_per_classifier, step)
    )


def test_a_million_cells_take_no_memory_until_they_are_asked_for():
    million = replace(GRID, target_classes=tuple((i, str(i)) for i in range(1000)), replicates=125, ks=(1, 2))
    assert len(million) == 1_000_000
    tracemalloc.start()
    try:
        assert num_shards(million, 1000) == 1000
        last = list(million.cells(range(999_990, 1_000_000)))
        assert sum(1 for _ in itertools.islice(million.cells(range(1_000_000)), 2000)) == 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last[-1].index == 999_999
    assert peak < 200_000


@given(st.integers(1, 7), st.sets(st.integers(0, 60), min_size=1))
def test_whole_units_hold_every_cell_that_must_not_be_parted_from_another(block, indices):
    expected = [index for index in range(70) if any(index // block == other // block for other in indices)]
    assert list(whole_blocks(sorted(indices), block)) == expected
