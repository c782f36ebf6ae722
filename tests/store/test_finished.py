from dataclasses import replace

import numpy as np
import pytest

from sfi_ray.attacks import failed
from sfi_ray.errors import StorageError
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.parts import Outcome, PartWriter, committed_outcomes
from tests.store.conftest import PROVENANCE, make_cell, make_finding


class TenCells:
    """A grid of ten of the cells that the findings of these tests are of."""

    def __len__(self):
        return 10

    def cells(self, indices):
        return (make_cell(index) for index in indices)


GRID = TenCells()


def commit(folder, start, stop, *batches):
    writer = PartWriter(folder, start, stop)
    for batch in batches:
        writer.commit(batch, PROVENANCE)


@pytest.fixture
def written(folder):
    """Two shards in three files, one row failed."""
    commit(folder, 0, 5, [make_finding(0), make_finding(1, fooled=False, confidence=0.25)], [make_finding(2)])
    commit(folder, 5, 10, [failed(make_cell(5), "it broke"), make_finding(6)])
    return folder


def counts(finished):
    return len(finished), finished.num_fooled, finished.num_failed


def test_a_run_without_rows_has_no_finished_cells(folder):
    finished = FinishedCells(folder, GRID)
    assert counts(finished) == (0, 0, 0)
    assert not finished.among(0, 10).any()


def test_finished_cells_are_known_and_counted(written):
    finished = FinishedCells(written, GRID)
    assert counts(finished) == (5, 3, 1)
    assert np.flatnonzero(finished.among(0, 10)).tolist() == [0, 1, 2, 5, 6]
    assert finished.among(4, 7).tolist() == [False, True, True]
    assert (finished.count(0, 10), finished.count(1, 6), finished.count(7, 10)) == (5, 3, 0)


def test_a_row_that_stands_twice_counts_once(written):
    commit(written, 0, 5, [make_finding(0), make_finding(0)])
    commit(written, 5, 10, [failed(make_cell(5), "it broke again")])
    assert counts(FinishedCells(written, GRID)) == (5, 3, 1)


@pytest.mark.parametrize("failed_first", [True, False])
def test_a_cell_that_was_given_up_but_finished_is_finished(folder, failed_first):
    rows = [failed(make_cell(3), "given up"), make_finding(3)]
    commit(folder, 0, 5, *([row] for row in (rows if failed_first else rows[::-1])))
    assert counts(FinishedCells(folder, GRID)) == (1, 1, 0)
    assert committed_outcomes(folder, 0, 5) == {3: Outcome(fooled=True, failed=False)}


@pytest.mark.parametrize("index", [-1, 10, 2**40])
def test_rows_beyond_the_grid_are_refused_with_the_mend(written, index):
    commit(written, 5, 10, [make_finding(6), make_finding(6, cell=replace(make_cell(6), index=index))])
    with pytest.raises(StorageError, match=r"holds rows of another job.*move the other job.s part files away"):
        FinishedCells(written, GRID)


def test_rows_of_another_grid_are_refused_with_the_mend(written):
    commit(written, 5, 10, [make_finding(7, cell=make_cell(7, cell_id="f" * 32))])
    with pytest.raises(StorageError, match="rows of another job, such as cell ffff"):
        FinishedCells(written, GRID)


def test_a_broken_part_file_is_named_with_the_mend(written):
    written.write("results/part-000000000000-000000000005-broken.parquet", b"PAR1")
    with pytest.raises(StorageError, match="move the broken part file away and launch again"):
        FinishedCells(written, GRID)
