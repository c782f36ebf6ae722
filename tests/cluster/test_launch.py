"""Launching in this process: the whole way of a job but Ray."""

import json
import os
import signal

import numpy as np
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from sfi_ray import Classifier, launch, open_run
from sfi_ray.cluster import worker
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.errors import InputError, ResourceError, StorageError
from sfi_ray.images import parse_background
from sfi_ray.store.folder import RunFolder
from tests.cluster.conftest import (
    assert_complete,
    make_classifier,
    make_job,
    make_module,
    outcome,
    slow,
    temporary_files,
)


def go(job, **options):
    options.setdefault("classifiers", {"toy": make_classifier()})
    return launch(job, in_process=True, **options)


def test_a_launch_leaves_a_row_for_every_cell(tmp_path):
    run = go(make_job(tmp_path))
    assert_complete(run)
    table = run.table()
    assert table.num_rows == 2 * 2 * 10
    assert set(table["evaluations"].to_pylist()) == {90}
    assert set(table["stop_reason"].to_pylist()) == {"budget"}
    assert all(len(pixels) <= k for pixels, k in zip(*(table[c].to_pylist() for c in ("pixels", "k")), strict=True))
    assert run.status().state == "finished"
    assert not temporary_files(tmp_path)


def test_stored_confidences_are_those_of_the_images_rebuilt_from_the_rows(tmp_path):
    run = go(make_job(tmp_path))
    table = run.table()
    images = torch.from_numpy(run.images(table)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        probabilities = make_module()((images - 0.3) / 0.4).softmax(1).numpy()
    targets = np.array(table["target_class"])
    np.testing.assert_allclose(probabilities[np.arange(len(targets)), targets], table["confidence"], atol=1e-6)
    assert probabilities.argmax(1).tolist() == table["predicted_class"].to_pylist()
    assert [c >= np.float32(0.9) for c in np.array(table["confidence"])] == table["fooled"].to_pylist()


def test_background_confidences_are_those_of_the_single_colours(tmp_path):
    run = go(make_job(tmp_path))
    for row in run.table().to_pylist():
        value = parse_background(row["background"], 1).value[0]
        with torch.inference_mode():
            expected = make_module()((torch.full((1, 1, 8, 8), value / 255) - 0.3) / 0.4).softmax(1)
        assert row["background_confidence"] == pytest.approx(expected[0, row["target_class"]].item(), abs=1e-6)


@pytest.mark.parametrize("cells_per_shard", [1, 3, 1000])
def test_rows_do_not_depend_on_the_shards(tmp_path, cells_per_shard):
    expected = outcome(go(make_job(tmp_path / "a")))
    cluster = {"cells_per_shard": cells_per_shard, "flush_seconds": 100}
    assert outcome(go(make_job(tmp_path / "b", cluster=cluster))).equals(expected)


def test_rows_of_a_convolution_do_not_depend_on_the_shards(tmp_path):
    changes = {"classifiers": [{"name": "cnn_mp", "training": {"epochs": 1}}], "k": 3}
    one = go(make_job(tmp_path / "a", **changes), classifiers={})
    other = go(make_job(tmp_path / "b", cluster={"cells_per_shard": 3}, **changes), classifiers={})
    assert outcome(one).equals(outcome(other))


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_rows(tmp_path, monkeypatch):
    expected = outcome(go(make_job(tmp_path / "a")))
    job = make_job(tmp_path / "b")
    real, calls = worker.PartWriter.commit, []

    def interrupting(self, findings, provenance):
        real(self, findings, provenance)
        calls.append(len(findings))
        if sum(calls) > 12:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(worker.PartWriter, "commit", interrupting)
    stopped = go(job)
    status = stopped.status()
    assert status.state == "interrupted"
    assert 12 < status.finished < 40
    monkeypatch.undo()
    run = go(job)
    assert_complete(run)
    assert outcome(run).equals(expected)


class StoppingOnce(Reporter):
    """Does what Ctrl-C does once, at a number of evaluations, and counts them."""

    def __init__(self, at):
        self.evaluations = 0
        self._at = at

    def progressed(self, tally, seconds_left):
        self.evaluations = max(self.evaluations, tally.evaluations)
        if self._at and tally.evaluations >= self._at:
            self._at = None
            signal.raise_signal(signal.SIGINT)


def test_a_search_that_is_stopped_goes_on_from_there_without_waiting_for_a_checkpoint_to_be_due(tmp_path):
    attack = {"kind": "de", "population_size": 10, "generations": 60}
    classifier = make_classifier(module=slow(make_module(), 0.01))
    job = make_job(tmp_path / "b", k=3, attack=attack, cluster={"cells_per_shard": 20, "checkpoint_seconds": 3600})
    total = 20 * 10 * 61
    first, second = StoppingOnce(total // 3), StoppingOnce(None)
    stopped = go(job, classifiers={"toy": classifier}, reporter=first)
    assert stopped.status().finished == 0
    assert len(list((tmp_path / "b/test/checkpoints").iterdir())) == 1
    run = go(job, classifiers={"toy": classifier}, reporter=second)
    assert first.evaluations + second.evaluations < 1.1 * total
    expected = go(make_job(tmp_path / "a", k=3, attack=attack), classifiers={"toy": classifier})
    assert outcome(run).equals(outcome(expected))


SHARED = {"attack": {"kind": "map_elites", "max_evaluations": 40, "num_candidates": 4, "stop_confidence": 0.13}}


@pytest.mark.parametrize("cells_per_shard", [1, 25])
def test_classes_that_are_searched_together_are_never_parted(tmp_path, cells_per_shard):
    expected = outcome(go(make_job(tmp_path / "a", **SHARED, cluster={"cells_per_shard": 1000})))
    run = go(make_job(tmp_path / "b", **SHARED, cluster={"cells_per_shard": cells_per_shard}))
    assert outcome(run).equals(expected)
    assert len(set(expected["generations"].to_pylist())) > 1


def test_a_group_of_which_some_rows_are_missing_is_searched_again_to_the_same_rows(tmp_path):
    job = make_job(tmp_path, **SHARED)
    run = go(job)
    expected = outcome(run)
    for part in sorted((tmp_path / "test/results").glob("*.parquet")):
        rows = pq.read_table(part)
        pq.write_table(rows.filter(pc.not_equal(pc.bit_wise_and(rows["cell_index"], 3), 1)), part)
    assert 0 < run.status().finished < run.status().num_cells
    again = go(job)
    assert_complete(again)
    assert outcome(again).equals(expected)


def test_launching_a_finished_run_again_changes_nothing(tmp_path):
    job = make_job(tmp_path)
    go(job)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "test/results").iterdir()}
    go(job)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "test/results").iterdir()} == before


def test_a_finished_run_needs_no_cluster(tmp_path):
    expected = outcome(go(make_job(tmp_path)))
    run = launch(make_job(tmp_path), classifiers={"toy": make_classifier()}, address="127.0.0.1:1")
    assert outcome(run).equals(expected)


def test_a_changed_job_is_refused_with_the_difference(tmp_path):
    go(make_job(tmp_path))
    with pytest.raises(InputError, match=r"(?s)attack\.generations: 8 -> 9.*--fresh"):
        go(make_job(tmp_path, attack={"kind": "de", "population_size": 10, "generations": 9}))


def test_another_cluster_is_not_a_changed_job(tmp_path):
    expected = outcome(go(make_job(tmp_path)))
    assert outcome(go(make_job(tmp_path, cluster={"retries": 9}))).equals(expected)


def test_other_weights_are_refused(tmp_path):
    go(make_job(tmp_path))
    with pytest.raises(InputError, match="fingerprint"):
        go(make_job(tmp_path), classifiers={"toy": make_classifier(seed=1)})


def test_a_classifier_given_in_code_must_be_given_again(tmp_path):
    go(make_job(tmp_path))
    with pytest.raises(InputError, match=r"was given in code.*give it again"):
        go(make_job(tmp_path), classifiers={})


def test_fresh_throws_away_the_run_and_nothing_else(tmp_path):
    go(make_job(tmp_path))
    (tmp_path / "test/notes.txt").write_text("mine")
    run = go(make_job(tmp_path, k=2), fresh=True)
    assert set(run.table()["k"].to_pylist()) == {2}
    assert (tmp_path / "test/notes.txt").read_text() == "mine"


def test_a_trained_network_is_trained_once_and_reused(tmp_path):
    epochs = []

    class Listener(Reporter):
        def trained(self, classifier, epoch, num_epochs, accuracy):
            epochs.append((classifier, epoch))

    changes = {"classifiers": [{"name": "mlp", "training": {"epochs": 2, "seed": 77}}], "k": 1}
    one = go(make_job(tmp_path / "a", **changes), classifiers={}, reporter=Listener())
    assert epochs == [("mlp", 1), ("mlp", 2)]
    other = go(make_job(tmp_path / "b", **changes), classifiers={}, reporter=Listener())
    assert len(epochs) == 2
    assert outcome(one).equals(outcome(other))
    assert one.record.classifiers[0].test_accuracy > 0.5
    card = json.loads((tmp_path / "a/test/models/mlp.json").read_text())
    assert card["fingerprint"] == one.record.classifiers[0].fingerprint


def test_a_run_with_trained_networks_is_resumed_from_its_folder_alone(tmp_path, monkeypatch):
    changes = {"classifiers": [{"name": "mlp", "training": {"epochs": 1}}], "k": 1}
    expected = outcome(go(make_job(tmp_path, **changes), classifiers={}))
    parts = sorted((tmp_path / "test/results").iterdir())
    for part in parts[::2]:
        part.unlink()
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "empty"))
    run = go(make_job(tmp_path, **changes), classifiers={})
    assert outcome(run).equals(expected)
    assert not (tmp_path / "empty").exists()


class Broken(nn.Module):
    """Gives NaN, or raises, for images that hold a bright pixel at the top left."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.how = make_module(), how

    def forward(self, images):
        logits = self.inner(images)
        if self.how == "raises" and len(images) > 32:
            raise RuntimeError("cuda error: an illegal memory access")
        return logits * torch.nan if self.how == "nan" else logits


class Hungry(nn.Module):
    """Has memory for 16 images from some forward pass on."""

    def __init__(self, passes):
        super().__init__()
        self.inner, self.passes = make_module(), passes

    def forward(self, images):
        self.passes -= len(images) > 1
        if self.passes < 0 and len(images) > 16:
            raise torch.OutOfMemoryError("tried to allocate 7 TiB")
        return self.inner(images)


def test_memory_that_runs_out_halves_the_micro_batch_and_costs_no_generation(tmp_path):
    said = []

    class Listener(Reporter):
        def log(self, text):
            said.append(text)

    expected = go(make_job(tmp_path / "a"), classifiers={"toy": make_classifier(module=Hungry(passes=10**9))})
    hungry = make_classifier(module=Hungry(passes=9))
    run = go(make_job(tmp_path / "b"), classifiers={"toy": hungry}, reporter=Listener())
    assert_complete(run)
    assert outcome(run).equals(outcome(expected)), "float32 has the same bits in micro-batches of 16 and 128 here"
    assert [text for text in said if "memory" in text] == [
        "toy: out of memory on cpu; going on with float32, channels-last, 16 images at once"
    ]
    sizes = [json.loads(text)["micro_batch"] for text in run.table()["runtime"].to_pylist()]
    assert set(sizes) <= {128, 16}
    assert sizes[-1] == 16
    assert run.record.classifiers[0].runtime.micro_batch == 128, "a resume tries the whole again"


def test_a_classifier_that_returns_nan_fails_its_cells_with_that_reason(tmp_path):
    run = go(make_job(tmp_path), classifiers={"toy": make_classifier(module=Broken("nan"))})
    assert_complete(run)
    assert run.status().failed == 40
    row = run.table().to_pylist()[0]
    assert row["stop_reason"] == "failed"
    assert "NaN" in row["error"]
    assert row["confidence"] is None
    assert row["fooled"] is False


def test_a_classifier_that_raises_is_given_up_without_ending_the_run(tmp_path):
    job = make_job(tmp_path, classifiers=["bad", "toy"], cluster={"retries": 1})
    classifiers = {"toy": make_classifier(), "bad": make_classifier(module=Broken("raises"))}
    run = go(job, classifiers=classifiers)
    assert_complete(run)
    failed = run.table(filter=ds.field("classifier") == "bad")
    assert set(failed["stop_reason"].to_pylist()) == {"failed"}
    assert "given up after 2 attempts" in failed["error"][0].as_py()
    assert "illegal memory access" in failed["error"][0].as_py()
    assert run.status().failed == 40
    assert set(run.table(filter=ds.field("classifier") == "toy")["stop_reason"].to_pylist()) == {"budget"}


def test_failed_cells_are_kept_until_they_are_to_be_tried_again(tmp_path):
    job = make_job(tmp_path, cluster={"retries": 0})
    network = Broken("raises")
    bad, good = make_classifier(module=network), make_classifier(module=network)
    good.module.how = "works again"
    assert go(job, classifiers={"toy": bad}).status().failed == 40
    assert go(job, classifiers={"toy": good}).status().failed == 40
    run = go(job, classifiers={"toy": good}, retry_failed=True)
    assert_complete(run)
    assert run.status().failed == 0


def test_a_network_that_answers_otherwise_does_not_try_failed_cells_again(tmp_path):
    job = make_job(tmp_path)
    assert go(job, classifiers={"toy": make_classifier(module=Broken("nan"))}).status().failed == 40
    with pytest.raises(InputError, match="has changed since"):
        go(job, classifiers={"toy": make_classifier(module=Broken("works"))}, retry_failed=True)


def test_a_full_disk_ends_the_run_with_the_mend_and_loses_nothing_written(tmp_path, monkeypatch):
    job = make_job(tmp_path)
    expected = outcome(go(make_job(tmp_path / "other")))
    real, count = RunFolder._write_through, []

    def full(self, path, content):
        if "/results/" in path:
            count.append(path)
            if len(count) > 2:
                with open(path, "wb") as file:  # noqa: PTH123
                    file.write(bytes(content)[:100])
                raise OSError(28, os.strerror(28))
        return real(self, path, content)

    monkeypatch.setattr(RunFolder, "_write_through", full)
    with pytest.raises(StorageError, match=r"No space left on device.*free some space and launch again"):
        go(job)
    assert not temporary_files(tmp_path)
    status = open_run(tmp_path / "test").status()
    assert 0 < status.finished < 40
    assert status.state == "stopped"
    monkeypatch.undo()
    assert outcome(go(job)).equals(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backgrounds": ["red"]}, "images of this data set are gray"),
        ({"backgrounds": ["purpel"]}, "unknown background 'purpel'"),
        ({"backgrounds": ["black", "#000000"]}, "listed twice under another name"),
        ({"target_classes": [10]}, "classes 0 to 9"),
        ({"target_classes": ["tree"]}, "'tree' does not exist"),
        ({"target_classes": [1, "1"]}, "listed twice"),
        ({"k": 65}, "more than the 64 pixels"),
        ({"dataset": "digitz"}, "digits"),
        ({"attack": {"kind": "nevergrad", "optimizer": "TwoPointDE"}}, "did you mean 'TwoPointsDE'"),
        ({"classifiers": ["toy", "cnn_mq"]}, "cnn_mp"),
        ({"classifiers": ["toy", {"name": "x", "architecture": "mlp", "weights": "/none.pt"}]}, "no such file"),
        ({"classifiers": ["mlp"]}, "'toy' was given in code, but the job does not name it"),
        ({"dataset": {"name": "mine", "shape": [3, 8, 8], "class_names": ["a", "b"]}}, r"takes images of shape"),
    ],
)
def test_bad_jobs_are_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        go(make_job(tmp_path / "runs", **changes))
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ResourceError, match=r"compute.device: cuda"):
        go(make_job(tmp_path, compute={"device": "cuda"}))


def test_data_sets_of_ones_own_need_no_images(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4 * 5, 2))
    classifier = Classifier(module, name="toy", input_shape=(3, 6, 7), num_classes=2)
    dataset = {"name": "mine", "shape": [3, 6, 7], "class_names": ["cat", "dog"]}
    run = go(make_job(tmp_path, dataset=dataset, backgrounds=["red", "#102030"]), classifiers={"toy": classifier})
    assert_complete(run)
    assert run.images().shape == (8, 6, 7, 3)
    assert set(run.table()["target_name"].to_pylist()) == {"cat", "dog"}


def test_runs_can_lie_on_any_file_system(tmp_path):
    expected = outcome(go(make_job(tmp_path)))
    run = go(make_job("memory://somewhere/runs"))
    assert outcome(run).equals(expected)
    assert open_run("memory://somewhere/runs/test").status().is_complete


def test_reports_are_written_with_the_run(tmp_path):
    go(make_job(tmp_path))
    names = {str(path.relative_to(tmp_path / "test/report")) for path in (tmp_path / "test/report").rglob("*.*")}
    tables = {
        "toy_k1",
        "toy_k3",
        "best_digits_de_k1",
        "best_digits_de_k3",
        "summary",
        "failures",
        "spending",
        "success_by_k",
    }
    assert names == {"index.html", *(f"figures/toy_k{k}.{kind}" for k in (1, 3) for kind in ("png", "svg"))} | {
        f"tables/{table}.{end}" for table in tables for end in ("csv", "md", "tex")
    }


def test_k_can_be_drawn_for_every_replicate(tmp_path):
    run = go(make_job(tmp_path, k={"low": 2, "high": 6}, replicates=5))
    assert set(run.table()["k"].to_pylist()) == {2, 3, 4, 5, 6}
    assert_complete(run)
