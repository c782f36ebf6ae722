"""Transfers in this process; test_ray.py has one over Ray."""

import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from sfi_ray import Run, launch
from sfi_ray.cli import app
from sfi_ray.cluster import transfer as module
from sfi_ray.cluster.transfer import transfer
from sfi_ray.errors import InputError
from sfi_ray.review.networks import RunClassifiers
from sfi_ray.review.transfer import TRANSFERS
from tests.review.conftest import copied, make_job, parts

THRESHOLD = 0.3


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cluster_cache"))
        classifiers = [
            {"name": "one", "architecture": "mlp", "training": {"epochs": 2}},
            {"name": "two", "architecture": "mlp", "training": {"epochs": 2, "seed": 1}},
        ]
        job = make_job(tmp_path_factory.mktemp("transfer"), classifiers=classifiers, backgrounds="black")
        return launch(job, in_process=True)


@pytest.fixture
def run(launched, tmp_path):
    return copied(launched, tmp_path)


def go(run, to, output, **options):
    return transfer(run, to, output, **{"threshold": THRESHOLD, "in_process": True, "device": "cpu", **options})


def rows_of(output):
    return pq.read_table(output / "transfer.parquet")


def test_every_image_meets_every_classifier_of_the_run(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "batch_rows", lambda shape: 5)
    done = go(run, [], tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert rows.schema.equals(TRANSFERS)
    assert rows.num_rows == 2 * 12
    classifiers, images = RunClassifiers(run), run.images()
    table = run.table().to_pylist()
    for number, row in enumerate(rows.to_pylist()):
        cell = table[number % 12]
        assert (row["cell_id"], row["source"]) == (cell["cell_id"], cell["classifier"])
        pixels = torch.from_numpy(images[number % 12].transpose(2, 0, 1)[None].copy()).float() / 255
        log_probs = classifiers[row["destination"]].reference_log_probs(pixels)[0]
        assert row["destination_confidence"] == float(log_probs.exp()[cell["target_class"]])
        assert row["destination_predicted_class"] == int(log_probs.argmax())
        if row["source"] == row["destination"]:
            assert row["destination_confidence"] == row["source_confidence"] == cell["confidence"]
        assert row["transfers"] == (min(row["destination_confidence"], row["source_confidence"]) >= np.float32(0.3))
    assert done.counts.sources == [("one", 1), ("one", 3), ("two", 1), ("two", 3)]
    for source, k in done.counts.sources:
        own = [row for row in rows.to_pylist() if (row["source"], row["k"]) == (source, k) and row["fooled_source"]]
        for destination in ("one", "two"):
            found = done.counts.of(source, k, destination)
            assert found.images == 3
            assert found.own == len(own) / 2
            assert found.both == sum(row["transfers"] for row in own if row["destination"] == destination)
            if source == destination and found.own:
                assert found.ratio == 1.0
    assert any(done.counts.of(source, 3, "one").own for source in ("one", "two"))


def test_other_classifiers_come_from_wherever_a_job_gets_them(run, tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    nn.init.zeros_(network[1].weight); nn.init.zeros_(network[1].bias)\n"
        "    return network\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    stored = f"{{name: again, architecture: mlp, weights: {run.folder.location}/models/one.safetensors}}"
    trained = "{name: fresh, architecture: mlp, training: {epochs: 1}}"
    done = go(run, ["two", "own_networks:make", stored, trained], tmp_path / "out")
    assert done.counts.destinations == ["two", "own_networks-make", "again", "fresh"]
    rows = rows_of(tmp_path / "out").to_pylist()
    assert {round(row["destination_confidence"], 6) for row in rows if row["destination"].startswith("own")} == {0.1}
    kept = sorted(path.name for path in (tmp_path / "out/models").glob("*.safetensors"))
    assert kept == ["again.safetensors", "fresh.safetensors", "own_networks-make.safetensors"]


def test_only_fooled_images_on_request(run, tmp_path):
    go(run, ["two"], tmp_path / "out", only_fooled=True)
    rows = rows_of(tmp_path / "out")
    confidences = run.table()["confidence"].to_numpy()
    assert 0 < rows.num_rows == (confidences >= np.float32(THRESHOLD)).sum() < 12
    assert all(rows["fooled_source"].to_pylist())
    with pytest.raises(InputError, match="has no fooled cell; leave --fooled out"):
        go(run, ["two"], tmp_path / "none", only_fooled=True, threshold=1.0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (["three"], "three"),
        (["two", "two"], "two classifiers are called 'two'"),
        (["{name: one, architecture: cnn_mp}"], "two classifiers are called 'one'"),
        (["{torchvision: resnet50, weights: DEFAULT}"], "takes images of shape"),
        (["nowhere:make"], "there is no module"),
        (["nothing.pt2"], "nothing.pt2"),
    ],
)
def test_a_classifier_that_cannot_be_had_is_refused_before_anything_is_scored(run, tmp_path, to, message, monkeypatch):
    monkeypatch.setattr(module, "ScoreSpec", None)
    with pytest.raises(InputError, match=message):
        go(run, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_threshold_is_a_confidence(run, tmp_path):
    for threshold in (0.0, 1.5):
        with pytest.raises(InputError, match="above 0 and at most 1"):
            go(run, [], tmp_path / "out", threshold=threshold)


def test_the_command_prints_the_form_of_table_18(run, tmp_path):
    broken = parts(run)[0]
    lost = pq.read_metadata(broken).num_rows
    output = tmp_path / "out"
    arguments = ["transfer", run.folder.location, "-o", str(output), "--threshold", "0.3", "--in-process"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    counts = list(csv.DictReader((output / "counts.csv").read_text().splitlines()))
    assert len(counts) == 8
    assert "| source | k | images | own | one | two |" in (output / "table.md").read_text()
    for count in counts:
        share = f"{float(count['ratio']):.2f}" if count["ratio"] else "-"
        assert f"{count['both']} ({share})" in done.stdout
    assert CliRunner().invoke(app, arguments).exit_code == 2
    broken.write_bytes(b"PAR1")
    partly = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert partly.exit_code == 4
    assert f"left out: results/{broken.name}" in partly.stderr
    assert rows_of(output).num_rows == 2 * (12 - lost)


def test_a_run_without_rows_is_said_to_be_empty(run, tmp_path):
    for part in parts(run):
        part.unlink()
    with pytest.raises(InputError, match="has no image yet; launch its job first"):
        go(Run(run.folder.location), [], tmp_path / "out")
    assert json.loads(run.folder.read("progress.json"))["state"] == "finished"
