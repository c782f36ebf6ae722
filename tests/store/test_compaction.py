import contextlib
import itertools
import time

import pyarrow.parquet as pq
import pytest

from sfi_ray.attacks import failed
from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.compaction import compact, finish_compaction
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import JOURNAL, PartWriter, drop_failed, each_cell_once, list_parts, open_dataset
from sfi_ray.store.progress import Progress, RunState, write_progress
from tests.store.conftest import PROVENANCE, make_cell, make_finding

NUM_CELLS = 40


def fill(folder):
    """Forty cells in shards of five, each in files of one, two and two; one cell failed."""
    for start in range(0, NUM_CELLS, 5):
        writer = PartWriter(folder, start, start + 5)
        for some in ([0], [1, 2], [3, 4]):
            findings = [make_finding(start + i) if start + i != 12 else failed(make_cell(12), "it broke") for i in some]
            writer.commit(findings, PROVENANCE)
    return folder


@pytest.fixture
def filled(folder):
    return fill(folder)


def rows(folder):
    return open_dataset(folder).to_table().sort_by("cell_index")


def test_rows_stay_the_same_in_few_files(filled):
    before = rows(filled)
    done = compact(filled)
    assert (done.files_before, done.files_after) == (24, 1)
    assert done.bytes_after < done.bytes_before
    (info,) = filled.list("results")
    assert info.base_name.startswith("part-000000000000-000000000040-")
    assert pq.read_table(info.path, filesystem=filled.filesystem).equals(before), "and in the order of the grid"
    assert not filled.exists(f"results/{JOURNAL}")


def test_compacting_again_changes_nothing(filled):
    compact(filled)
    names = [info.base_name for info in list_parts(filled)]
    assert compact(filled).files_after == 1
    assert [info.base_name for info in list_parts(filled)] == names


def test_files_have_the_size_that_was_asked_for(filled):
    before, sizes = rows(filled), [info.size for info in list_parts(filled)]
    done = compact(filled, file_bytes=5 * max(sizes))
    assert 1 < done.files_after <= 6
    assert rows(filled).equals(before)


def test_a_cell_that_stands_twice_is_kept_once_and_what_was_given_up_goes(filled):
    PartWriter(filled, 10, 15).commit([make_finding(11), make_finding(12)], PROVENANCE)
    compact(filled)
    table = rows(filled)
    assert table["cell_index"].to_pylist() == list(range(NUM_CELLS))
    assert table["stop_reason"].to_pylist()[12] == "fooled"


class Stopped(BaseException):
    """The process ends here."""


@contextlib.contextmanager
def stopping_at(monkeypatch, step):
    """Ends the process, so to speak, before the so many-th change to the folder."""
    steps = itertools.count()
    with monkeypatch.context() as patch:
        for name in ("write", "delete"):
            real = getattr(RunFolder, name)

            def change(self, *arguments, real=real):
                if next(steps) == step:
                    raise Stopped
                return real(self, *arguments)

            patch.setattr(RunFolder, name, change)
        yield


@pytest.mark.parametrize("step", range(12))
def test_a_crash_at_any_moment_neither_loses_nor_doubles_a_row(filled, monkeypatch, step):
    before = rows(filled)
    sizes = [info.size for info in list_parts(filled)]
    with stopping_at(monkeypatch, step), pytest.raises(Stopped):
        compact(filled, file_bytes=6 * max(sizes))
    assert rows(filled).equals(before), "before anything is mended"
    finish_compaction(filled)
    assert rows(filled).equals(before)
    assert compact(filled).files_after == 1
    assert rows(filled).equals(before)
    assert len(filled.list("results")) == 1


def test_failed_rows_that_are_dropped_after_a_crash_do_not_come_back(filled, monkeypatch):
    with stopping_at(monkeypatch, 3), pytest.raises(Stopped):  # the large file is there, so are the small ones
        compact(filled)
    finish_compaction(filled)
    assert drop_failed(filled) == 1
    assert rows(filled).num_rows == NUM_CELLS - 1


def test_a_folder_that_a_launch_writes_to_is_refused(filled):
    with filled.lock(), pytest.raises(InputError, match="another launch is writing"):
        compact(RunFolder(filled.location))
    assert len(list_parts(filled)) == 24


@pytest.mark.parametrize(("state", "is_refused"), [(RunState.RUNNING, True), (RunState.FINISHED, False)])
def test_a_driver_that_is_alive_is_respected_where_there_are_no_locks(tmp_path, state, is_refused):
    folder = fill(RunFolder(f"memory://{tmp_path.name}/run"))
    now = time.time()
    counts = dict.fromkeys(("num_cells", "finished", "fooled", "failed", "evaluations", "actors", "pid"), 1)
    progress = Progress(
        state=state, host="elsewhere", started_at=now, updated_at=now, evaluations_per_second=1.0, **counts
    )
    write_progress(folder, progress)
    if is_refused:
        with pytest.raises(InputError, match=r"another launch is writing .*process 1 on elsewhere"):
            compact(folder)
        assert len(list_parts(folder)) == 24
    else:
        assert compact(folder).files_after == 1
    folder.delete("")


def test_a_broken_part_file_is_named_and_nothing_changes(filled):
    filled.write("results/part-000000000000-000000000005-broken.parquet", b"PAR1")
    with pytest.raises(StorageError, match="move the broken part file away"):
        compact(filled)
    assert len(filled.list("results", ".parquet")) == 25


def test_a_broken_journal_is_named_with_the_mend(filled):
    filled.write(f"results/{JOURNAL}", b"{")
    with pytest.raises(StorageError, match="is broken; delete it"):
        list_parts(filled)


def test_no_rows_stay_no_rows(folder):
    assert compact(folder).files_after == 0
    assert each_cell_once(open_dataset(folder).to_table()).num_rows == 0
