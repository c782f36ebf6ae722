"""Searches that begin with images of an earlier run, launched in this process."""

import shutil
import signal

import pyarrow.compute as pc
import pytest

from sfi_ray import launch
from sfi_ray.cluster import worker
from sfi_ray.errors import InputError
from tests.cluster.conftest import assert_complete, make_classifier, make_job, outcome

SHARED = {"kind": "map_elites", "max_evaluations": 12, "num_elites": 2, "num_candidates": 4}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A run on another classifier, with two replicates of each cell."""
    job = make_job(tmp_path_factory.mktemp("earlier"), name="earlier", replicates=2)
    return launch(job, classifiers={"toy": make_classifier(seed=1)}, in_process=True)


def job_of(output, earlier, **changes):
    attack = {**SHARED, "transfer_from": earlier.folder.location}
    return make_job(output, **{"attack": attack, "backgrounds": ["black", "gray", "white"], **changes})


def go(job, **options):
    return launch(job, classifiers={"toy": make_classifier()}, in_process=True, **options)


def test_the_first_generation_has_the_best_images_of_the_earlier_run(tmp_path, earlier):
    attack = {**SHARED, "max_evaluations": 1, "transfer_from": earlier.folder.location}
    run = go(job_of(tmp_path, earlier, attack=attack, k=3))
    assert_complete(run)
    best = {}
    for row in earlier.table(["background", "target_class", "confidence", "pixels"]).to_pylist():
        key = row["background"], row["target_class"]
        best[key] = max(best.get(key, (-1.0, [])), (row["confidence"], row["pixels"]), key=lambda pair: pair[0])
    images = [pixels for _, pixels in best.values()]
    known = [row for row in run.table(["background", "pixels"]).to_pylist() if row["background"] != "white"]
    assert len(known) == 20
    assert all(row["pixels"] in images for row in known)


def test_rows_do_not_depend_on_shards_nor_on_the_earlier_run_once_it_is_launched(tmp_path, earlier, monkeypatch):
    expected = outcome(go(job_of(tmp_path / "a", earlier)))
    moved = tmp_path / "earlier"
    shutil.copytree(earlier.folder.location, moved)
    attack = {**SHARED, "transfer_from": str(moved)}
    job = job_of(tmp_path / "b", earlier, attack=attack, cluster={"flush_seconds": 0, "cells_per_shard": 20})

    real = worker.PartWriter.commit

    def interrupting(self, findings, provenance):
        real(self, findings, provenance)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(worker.PartWriter, "commit", interrupting)
        stopped = go(job)
    assert 0 < stopped.status().finished < stopped.record.num_cells
    shutil.rmtree(moved)
    run = go(job)
    assert_complete(run)
    # Where the earlier run lay is written down, and decides nothing.
    assert outcome(run).drop_columns(["attack_settings"]).equals(expected.drop_columns(["attack_settings"]))
    assert pc.count_distinct(expected["cell_id"]).as_py() == run.record.num_cells


def test_what_a_search_begins_with_is_part_of_what_is_searched(tmp_path, earlier):
    without = go(job_of(tmp_path / "a", earlier, attack=SHARED)).table(["cell_id"])["cell_id"].to_pylist()
    with_starts = go(job_of(tmp_path / "b", earlier)).table(["cell_id"])["cell_id"].to_pylist()
    assert not set(without) & set(with_starts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attack": {**SHARED, "transfer_from": "nowhere/at_all"}}, "nowhere/at_all' holds no run"),
        (
            {"dataset": {"name": "large", "shape": [1, 9, 8], "class_names": [str(i) for i in range(10)]}},
            "1 x 8 x 8 .* 'large' are 1 x 9 x 8",
        ),
        (
            {"dataset": {"name": "letters", "shape": [1, 8, 8], "class_names": list("abcdefghij")}},
            "no image of any class of 'letters'",
        ),
    ],
)
def test_an_earlier_run_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, earlier, change, message):
    with pytest.raises(InputError, match=message):
        go(job_of(tmp_path / "new", earlier, **change))
    assert not (tmp_path / "new").exists()
