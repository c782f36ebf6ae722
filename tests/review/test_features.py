import csv
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from sfi_ray import Run, launch
from sfi_ray.cli import app
from sfi_ray.data import load_split
from sfi_ray.errors import InputError
from sfi_ray.report.sheets.feature_map import feature_map
from sfi_ray.review.features import compare_features
from sfi_ray.review.layer_features import FeatureSettings, LayerFeatures
from sfi_ray.review.networks import RunClassifiers
from tests.review.conftest import make_job, parts


def settings(**changes):
    return FeatureSettings(**{"layers": ("second_to_last",), "num_natural": 8, "num_neighbours": 5, **changes})


def compared(run, folder, **changes):
    done = compare_features(run, settings(**changes), folder, feature_map, device="cpu")
    return done, pq.read_table(folder / "features.parquet").to_pylist()


def test_shares_are_those_of_a_search_by_hand(run, tmp_path):
    done, rows = compared(run, tmp_path / "out")
    classifier = RunClassifiers(run)["mlp"]
    images, labels = load_split(run.job.dataset, "test")
    chosen = sorted(row for index in range(10) for row in torch.where(labels == index)[0][:8].tolist())
    natural = classifier.features(images[chosen].float() / 255, "second_to_last").double()
    table = run.table(["cell_id", "target_class"]).to_pylist()
    pixels = torch.from_numpy(run.images().transpose(0, 3, 1, 2).copy()).float() / 255
    features = classifier.features(pixels, "second_to_last").double()
    shares = {}
    for cell, feature in zip(table, features, strict=True):
        order = (natural - feature).pow(2).sum(1).argsort(stable=True)[:5]
        shares[cell["cell_id"]] = float((labels[chosen][order] == cell["target_class"]).double().mean())
    assert {row["image"]: row["share_of_class"] for row in rows if row["kind"] == "sfi"} == pytest.approx(shares)
    assert [row["image"] for row in rows if row["kind"] == "natural"] == [f"test[{row}]" for row in chosen]
    assert [row["name"] for row in rows if row["kind"] == "single_colour"] == ["black", "gray", "white"]
    overall, *by_class = done.closeness
    assert (overall.class_name, overall.num_sfis, overall.num_natural) == ("all", 12, 80)
    assert overall.share == pytest.approx(np.mean(list(shares.values())))
    assert overall.chance == pytest.approx(0.1)
    assert [one.class_name for one in by_class] == ["0", "3", "7"]
    of_three = [shares[cell["cell_id"]] for cell in table if cell["target_class"] == 3]
    assert by_class[1].share == pytest.approx(np.mean(of_three))


def test_small_parts_and_passes_give_what_one_pass_gives(run, tmp_path, monkeypatch):
    _, whole = compared(run, tmp_path / "whole", num_natural=0)
    monkeypatch.setattr(LayerFeatures, "_part_bytes", 0)
    monkeypatch.setattr(LayerFeatures, "_query_bytes", 4 * 5 * 256)
    _, streamed = compared(run, tmp_path / "streamed", num_natural=0)
    assert len(streamed) == 360 + 12 + 3
    for one, other in zip(whole, streamed, strict=True):
        assert one["image"] == other["image"]
        assert one["share_of_class"] == other["share_of_class"]


def test_the_surest_images_of_each_class_and_those_of_one_k(run, tmp_path):
    _, rows = compared(run, tmp_path / "out", num_sfis=1)
    table = run.table(["cell_id", "target_class", "confidence", "k"]).to_pylist()
    best = {
        max((r for r in table if r["target_class"] == t), key=lambda r: r["confidence"])["cell_id"] for t in (0, 3, 7)
    }
    assert {row["image"] for row in rows if row["kind"] == "sfi"} == best
    _, rows = compared(run, tmp_path / "k", ks=(3,), backgrounds=("gray",))
    kept = {row["image"] for row in rows if row["kind"] == "sfi"}
    assert kept == {row["cell_id"] for row in run.table().to_pylist() if row["k"] == 3 and row["background"] == "gray"}


def test_the_command_prints_and_writes_every_layer(run, tmp_path):
    output = tmp_path / "out"
    layers = ["--layer", "second_to_last", "--layer", "fc1"]
    arguments = ["features", run.folder.location, "-o", str(output), "--neighbours", "5", *layers]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((output / "neighbours.csv").read_text().splitlines()))
    assert [(row["layer"], row["class_name"]) for row in rows] == [
        (layer, name) for layer in ("second_to_last", "fc1") for name in ("all", "0", "3", "7")
    ]
    for row in rows:
        assert f"{100 * float(row['share']):.1f}" in done.stdout
    for layer in ("second_to_last", "fc1"):
        assert (output / f"mlp_{layer}.png").read_bytes().startswith(b"\x89PNG")
        assert b"<svg" in (output / f"mlp_{layer}.svg").read_bytes()
    assert "| mlp | fc1 | all | 12 |" in (output / "neighbours.md").read_text()
    described = json.loads((output / "features.json").read_text())["layers"]
    assert described[0]["share"] == float(rows[0]["share"])
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "choose another folder, or replace it with --overwrite" in again.stderr
    broken = parts(run)[0]
    broken.write_bytes(b"PAR1")
    partly = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert partly.exit_code == 4, partly.output
    assert f"left out: results/{broken.name}" in partly.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "fc9"], "Mlp has no layer 'fc9'; did you mean 'fc3'? There are: second_to_last, "),
        (["--classifier", "vgg16"], "has no classifier 'vgg16', only mlp"),
        (["--k", "9"], "has no image of 'mlp' that matches --k; leave out an option"),
        (["--natural", "1", "--neighbours", "10"], "10 natural images are too few for 10 neighbours"),
        (["--split", "val"], "is test or train"),
    ],
)
def test_what_is_not_there_is_named(run, tmp_path, options, message):
    done = CliRunner().invoke(app, ["features", run.folder.location, "-o", str(tmp_path / "out"), *options])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_a_data_set_without_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SFI_RAY_CACHE", str(tmp_path / "cache"))
    trained = launch(make_job(tmp_path / "trained"), in_process=True)
    weights = f"{trained.folder.location}/models/mlp.safetensors"
    classifiers = [{"name": "mlp", "weights": weights, "mean": [0.3], "std": [0.4]}]
    dataset = {"name": "shapes", "shape": [1, 8, 8], "class_names": list("abcdefghij")}
    job = make_job(tmp_path, dataset=dataset, classifiers=classifiers)
    with pytest.raises(InputError, match="data set 'shapes' has no images"):
        compared(launch(job, in_process=True), tmp_path / "out")


def test_an_empty_run_is_said_to_be_empty(run, tmp_path):
    for part in parts(run):
        part.unlink()
    with pytest.raises(InputError, match="has no image of 'mlp' yet; launch its job first"):
        compared(Run(run.folder.location), tmp_path / "out")
