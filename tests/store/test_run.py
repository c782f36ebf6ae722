import json
import time
from dataclasses import replace

import numpy as np
import pyarrow.dataset as ds
import pytest

from sfi_ray.attacks import failed
from sfi_ray.errors import InputError, StorageError
from sfi_ray.images import paint_pixels
from sfi_ray.job import Job
from sfi_ray.models import RuntimeConfig
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import PartWriter
from sfi_ray.store.progress import PROGRESS, Progress, RunState, read_progress, write_progress
from sfi_ray.store.record import ClassifierRecord, RunRecord, write_record
from sfi_ray.store.run import Run, open_run
from sfi_ray.store.schema import FINDINGS
from tests.store.conftest import PROVENANCE, make_cell, make_finding

NUM_CELLS = 10


@pytest.fixture
def folder(tmp_path):
    """A run of ten cells of which none was searched."""
    folder = RunFolder(tmp_path / "my run")
    job = Job.model_validate({"name": "a", "dataset": "digits", "classifiers": "mlp", "k": 3})
    record = RunRecord(
        job=job,
        dataset="digits",
        input_shape=(1, 8, 8),
        class_names=tuple("0123456789"),
        classifiers=(
            ClassifierRecord(
                name="mlp",
                fingerprint="f",
                architecture="mlp",
                mean=(0.0,),
                std=(1.0,),
                runtime=RuntimeConfig(micro_batch=128),
            ),
        ),
        device="cpu",
        num_cells=NUM_CELLS,
        versions={},
    )
    write_record(folder, record)
    return folder


def commit(folder, *batches):
    writer = PartWriter(folder, 0, NUM_CELLS)
    for batch in batches:
        writer.commit(batch, PROVENANCE)


def beat(folder, state=RunState.RUNNING, age=0.0, **changes):
    values = {
        "state": state,
        "host": "here",
        "pid": 1,
        "started_at": time.time() - 100,
        "updated_at": time.time() - age,
        "num_cells": NUM_CELLS,
        "finished": 0,
        "fooled": 0,
        "failed": 0,
        "evaluations": 0,
        "evaluations_per_second": 0.5,
        "actors": 2,
        **changes,
    }
    progress = Progress(**values)
    write_progress(folder, progress)
    return progress


def state_of(folder):
    return Run(folder.location).status().state


@pytest.mark.parametrize("place", ["nothing", "file", "empty"])
def test_what_is_no_run_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=rf"'{tmp_path}/{place}' holds no run: it has no job.yaml; a run's folder is"):
        open_run(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"], "looking makes nothing"


def test_a_run_without_rows_is_readable(folder):
    run = open_run(folder.location)
    assert run.table().num_rows == 0
    assert run.table().schema == FINDINGS
    assert len(run.images()) == 0
    assert len(run.to_pandas()) == 0
    assert run.job.name == "a"


def test_rows_come_in_the_order_of_the_grid_each_cell_once(folder):
    commit(folder, [make_finding(7), make_finding(2)], [make_finding(9), make_finding(0)], [make_finding(2)])
    commit(folder, [make_finding(7), make_finding(4)])
    run = Run(folder.location)
    assert run.dataset.count_rows() == 7
    table = run.table()
    assert table["cell_index"].to_pylist() == [0, 2, 4, 7, 9]
    assert table.schema == FINDINGS


@pytest.mark.parametrize("failed_first", [True, False])
def test_of_two_rows_the_one_that_found_something_is_kept(folder, failed_first):
    rows = [failed(make_cell(3), "given up"), make_finding(3)]
    commit(folder, *([row] for row in (rows if failed_first else rows[::-1])))
    run = Run(folder.location)
    assert run.table(["stop_reason", "error"]).to_pylist() == [{"stop_reason": "fooled", "error": None}]
    assert run.status().failed == 0


def test_columns_and_rows_can_be_chosen(folder):
    commit(folder, [make_finding(3), make_finding(1, fooled=False), make_finding(2)])
    run = Run(folder.location)
    assert run.table(["confidence", "k"]).column_names == ["confidence", "k"]
    assert run.table(["cell_index"], ds.field("fooled"))["cell_index"].to_pylist() == [2, 3]
    assert run.table([]).num_columns == 0
    assert list(run.to_pandas(["seed", "cell_index"]).columns) == ["seed", "cell_index"]
    assert run.to_pandas(["seed", "cell_index"]).cell_index.tolist() == [1, 2, 3]


def test_images_are_those_that_were_verified(folder):
    findings = [make_finding(index) for index in range(4)]
    findings.append(failed(make_cell(4), "it broke"))
    findings.append(replace(make_finding(5), pixels=()))
    commit(folder, findings[::-1])
    run = Run(folder.location)
    images = run.images()
    assert images.dtype == np.uint8
    expected = paint_pixels([f.pixels for f in findings], [f.cell.background for f in findings], 8, 8)
    np.testing.assert_array_equal(images, expected.permute(0, 2, 3, 1).numpy())
    some = run.table(filter=ds.field("cell_index") >= 3)
    np.testing.assert_array_equal(run.images(some), images[3:])


def test_a_run_is_read_from_any_file_system(folder, tmp_path):
    commit(folder, [make_finding(1)])
    remote = RunFolder(f"memory://{tmp_path.name}/run")
    for name in ("job.yaml", *(f"results/{info.base_name}" for info in folder.list("results"))):
        remote.write(name, folder.read(name))
    assert Run(remote.location).table() == Run(folder.location).table()


def test_a_broken_part_file_is_named(folder):
    commit(folder, [make_finding(1)])
    folder.write("results/part-000000000000-000000000010-x.parquet", b"PAR1 and no more")
    run = Run(folder.location)
    with pytest.raises(StorageError, match=r"-x\.parquet.*move the broken part file away"):
        run.table()
    with pytest.raises(StorageError, match="move the broken part file away"):
        run.status()


def test_a_run_that_grows_is_seen_to_grow(folder):
    run = Run(folder.location)
    assert run.status().finished == 0
    commit(folder, [make_finding(1)])
    assert run.status().finished == 1


# How it stands.


def test_counts_are_of_cells_and_not_of_rows(folder):
    commit(
        folder,
        [make_finding(0), make_finding(1, fooled=False)],
        [make_finding(0), failed(make_cell(2), "it broke")],
    )
    status = Run(folder.location).status()
    assert (status.num_cells, status.finished, status.fooled, status.failed) == (10, 3, 1, 1)
    assert status.evaluations == 100 + 101
    assert not status.is_complete


def test_states(folder):
    assert state_of(folder) == "lost", "a driver that never said a word"
    beat(folder)
    assert state_of(folder) == "running"
    beat(folder, age=3 * Progress.heartbeat_seconds)
    assert state_of(folder) == "running", "a sign of life may be late"
    beat(folder, age=5 * Progress.heartbeat_seconds)
    assert state_of(folder) == "lost"
    for state in (RunState.INTERRUPTED, RunState.STOPPED):
        beat(folder, state, age=1000)
        assert state_of(folder) == state.value


@pytest.mark.parametrize("state", [*RunState, None])
def test_a_run_with_every_row_is_finished_whatever_its_driver_said(folder, state):
    commit(folder, [make_finding(index) for index in range(NUM_CELLS)])
    if state:
        beat(folder, state, age=1000)
    status = Run(folder.location).status()
    assert status.state == "finished"
    assert status.is_complete


def test_a_broken_sign_of_life_is_none(folder):
    for content in (b"", b"{", b"\xff", b"[]", b'{"state": "dancing"}', json.dumps({"state": "running"}).encode()):
        folder.write(PROGRESS, content)
        assert read_progress(folder) is None
        assert state_of(folder) == "lost"


# The sign of life.


def test_a_sign_of_life_is_read_as_it_was_written(folder):
    assert read_progress(folder) is None
    for seconds_left in (None, 12.5):
        written = beat(folder, seconds_left=seconds_left, evaluations=2**60, evaluations_per_second=1e9 / 3)
        assert read_progress(folder) == written


def test_only_a_running_driver_is_alive(folder):
    assert beat(folder).is_alive
    assert not beat(folder, age=1000).is_alive
    assert not any(beat(folder, state).is_alive for state in RunState if state is not RunState.RUNNING)


def test_a_progress_that_cannot_be_read_is_none(folder):
    folder.write("progress.json/inner", b"a folder in its place")
    assert read_progress(folder) is None


@pytest.mark.parametrize("size", [1, 3, 100])
def test_batches_are_the_table_a_few_cells_at_a_time(folder, size):
    PartWriter(folder, 4, NUM_CELLS).commit([make_finding(i) for i in (7, 4, 9)], PROVENANCE)
    # Another cut of the grid, as after a resume, and a cell that two workers wrote.
    PartWriter(folder, 0, 6).commit([failed(make_cell(4), "lost"), make_finding(1)], PROVENANCE)
    run = Run(folder.location)
    batches = list(run.batches(["cell_index", "confidence", "pixels"], size))
    assert max(batch.num_rows for batch in batches) <= size
    joined = [row for batch in batches for row in batch.to_pylist()]
    assert joined == run.table(["cell_index", "confidence", "pixels"]).to_pylist()
    assert [row["cell_index"] for row in joined] == [1, 4, 7, 9]
    (only,) = run.batches(["cell_index"], NUM_CELLS, ds.field("cell_index") == 7)
    assert only.to_pylist() == [{"cell_index": 7}]


def test_batches_name_a_broken_part_or_leave_it_out(folder):
    commit(folder, [make_finding(1)], [make_finding(2)])
    first, _ = folder.list("results")
    folder.write(f"results/{first.base_name}", b"PAR1")
    run, broken = Run(folder.location), []
    with pytest.raises(StorageError, match=first.base_name):
        list(run.batches(["cell_index"], 1))
    (left,) = run.batches(["cell_index"], 1, on_broken=lambda name, text: broken.append(name))
    assert left.to_pylist() == [{"cell_index": 2}]
    assert broken == [f"results/{first.base_name}"]
