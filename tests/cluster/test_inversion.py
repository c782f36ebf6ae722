"""Jobs that imitate natural images, launched in this process."""

import io
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch import nn

from sfi_ray import Classifier, launch
from sfi_ray.cluster import worker
from sfi_ray.data import DatasetSpec, ImageSelection, load_split, select_images
from sfi_ray.data import dataset_info as info_of
from sfi_ray.errors import InputError
from tests.cluster.conftest import assert_complete, make_classifier, make_job, outcome

INVERSION = {"kind": "inversion", "steps": 12, "lambda_sparse": 1e-3}


def job_of(output, **changes):
    return make_job(
        output, **{"attack": INVERSION, "k": None, "images": {"per_class": 2}, "target_classes": [7, 3], **changes}
    )


def go(job, **options):
    return launch(job, classifiers={"toy": make_classifier()}, in_process=True, **options)


def test_every_natural_image_has_a_row_on_every_background(tmp_path):
    run = go(job_of(tmp_path))
    assert_complete(run)
    table = run.table()
    assert table.num_rows == 2 * 4
    assert set(table["k"].to_pylist()) == {64}
    assert table["num_altered"].to_pylist() == [len(pixels) for pixels in table["pixels"].to_pylist()]
    assert min(table["num_altered"].to_pylist()) > 0
    chosen = select_images(ImageSelection(per_class=2), DatasetSpec(name="digits"), info_of(run.job.dataset), [7, 3])
    assert table["image"].to_pylist() == [image.source for image in chosen] * 2
    assert table["image_index"].to_pylist() == [*range(4)] * 2
    assert table["target_class"].to_pylist() == [image.target_class for image in chosen] * 2
    assert all(-1 <= product <= 1 for product in table["feature_inner_product"].to_pylist())
    assert set(table["backward_passes"].to_pylist()) == {12}


def test_the_images_are_kept_in_the_convention_of_data_sets(tmp_path):
    run = go(job_of(tmp_path))
    images, labels = load_split(DatasetSpec(name="kept", path=str(tmp_path / "test/images.parquet")), "test")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), run.natural_images())
    assert labels.tolist() == run.table()["target_class"].to_pylist()[:4]
    kept = pq.read_table(tmp_path / "test/images.parquet")["image"].to_pylist()
    assert kept[0]["path"] == run.table()["image"][0].as_py()
    assert Image.open(io.BytesIO(kept[0]["bytes"])).format == "PNG"


def test_rows_do_not_depend_on_the_shards_or_on_interruptions(tmp_path, monkeypatch):
    expected = outcome(go(job_of(tmp_path / "a")))
    assert outcome(go(job_of(tmp_path / "b", cluster={"cells_per_shard": 3}))).equals(expected)
    for part in sorted((tmp_path / "a/test/results").iterdir())[::2]:
        part.unlink()
    assert outcome(go(job_of(tmp_path / "a"))).equals(expected)


def write_pictures(folder):
    folder.mkdir(exist_ok=True)
    paths = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8), np.uint8)
        paths.append(str(folder / f"{number}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def test_a_run_goes_on_when_its_pictures_are_gone(tmp_path):
    paths = write_pictures(tmp_path / "pictures")
    job = job_of(tmp_path, images={"files": paths}, target_classes=[4])
    expected = outcome(go(job))
    assert expected["image"].to_pylist() == ["0.png", "1.png"] * 2
    shutil.rmtree(tmp_path / "pictures")
    for part in (tmp_path / "test/results").iterdir():
        part.unlink()
    assert outcome(go(job)).equals(expected)


def test_other_images_are_another_job(tmp_path):
    paths = write_pictures(tmp_path / "pictures")
    job = job_of(tmp_path, images={"files": paths}, target_classes=[4])
    go(job)
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(paths[1])
    with pytest.raises(InputError, match=r"images: '1\.png' has changed since"):
        go(job)
    with pytest.raises(InputError, match=r"(?s)images.*--fresh"):
        go(job_of(tmp_path, images={"files": paths[:1]}, target_classes=[4]))
    assert go(job, fresh=True).natural_images()[1].max() == 77


def test_images_that_were_tampered_with_are_refused(tmp_path):
    job = job_of(tmp_path)
    go(job)
    shutil.copy(tmp_path / "test/images.parquet", tmp_path / "good.parquet")
    (tmp_path / "test/images.parquet").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"images\.parquet' is broken"):
        go(job)
    table = pq.read_table(tmp_path / "good.parquet")
    pq.write_table(table.slice(1), tmp_path / "test/images.parquet")
    with pytest.raises(InputError, match=r"images\.parquet' is broken \(it claims 3 images of .*, the run has 4\)"):
        go(job)


def test_a_cap_is_kept(tmp_path):
    run = go(job_of(tmp_path, k=[2, 6], images={"rows": [0, 5]}, target_classes="all"))
    table = run.table()
    assert all(altered <= k for altered, k in zip(*(table[c].to_pylist() for c in ("num_altered", "k")), strict=True))
    names = {path.name for path in (tmp_path / "test/report/figures").iterdir()}
    assert names == {
        f"toy_k{k}{what}.{kind}" for k in (2, 6) for what in ("", "_pairs", "_positions") for kind in ("png", "svg")
    }


def test_reports_name_what_was_altered_and_not_a_cap(tmp_path):
    go(job_of(tmp_path))
    names = {path.name for path in (tmp_path / "test/report").rglob("toy_*")}
    tables, figures = {"toy_kany.csv", "toy_kany.md", "toy_kany.tex"}, {"", "_pairs", "_positions"}
    assert names == tables | {f"toy_kany{figure}.{kind}" for figure in figures for kind in ("png", "svg")}
    assert "altered pixels through toy" in (tmp_path / "test/report/tables/toy_kany.md").read_text()


def test_a_layer_that_does_not_exist_ends_the_launch_before_anything_is_written(tmp_path):
    for changes in ({}, {"classifiers": [{"name": "mlp"}]}):
        job = job_of(tmp_path / "runs", attack={**INVERSION, "layer": "features.99"}, **changes)
        given = {} if changes else {"toy": make_classifier()}
        with pytest.raises(InputError, match=r"attack\.layer: .* no layer 'features\.99'.*There are: second_to_last"):
            launch(job, classifiers=given, in_process=True)
    assert not (tmp_path / "runs").exists()


def test_a_network_without_inner_layers_is_refused(tmp_path):
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(make_classifier().module[1].weight[:10].clone())

        def forward(self, images):
            return images.flatten(1) @ self.weights.T

    classifier = Classifier(Whole(), name="toy", input_shape=(1, 8, 8), num_classes=10)
    with pytest.raises(InputError, match="no second to last layer"):
        launch(job_of(tmp_path), classifiers={"toy": classifier}, in_process=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attack": {"kind": "de"}}, "key 'k' is missing; add it"),
        ({"attack": {"kind": "de"}, "k": 5}, "`images` belongs to attack kind inversion, not to de"),
        ({"replicates": 2}, "inversions with the same start have the same result"),
    ],
)
def test_jobs_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        job_of(tmp_path, **changes)


def test_one_image_of_each_class_is_the_default(tmp_path):
    job = job_of(tmp_path, images=None)
    assert job.selection == ImageSelection(per_class=1)
    assert make_job(tmp_path).selection is None
    assert len(go(job).table()) == 2 * 2


def test_a_worker_reads_the_images_once(tmp_path, monkeypatch):
    reads = []
    real = worker.read_natural_images
    monkeypatch.setattr(worker, "read_natural_images", lambda *given: reads.append(given) or real(*given))
    go(job_of(tmp_path, cluster={"cells_per_shard": 3}))
    assert len(reads) == 1
