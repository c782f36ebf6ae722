import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.data import DatasetSpec, dataset_info, load_split
from sfi_ray.errors import InputError, StorageError
from sfi_ray.review import export as module
from sfi_ray.review.export import DESCRIPTION, KINDS, export_run
from tests.review.conftest import change_row, parts
from tests.review.test_verify import give_up


@pytest.fixture
def to(tmp_path):
    return tmp_path / "exports" / "set"


def listed(to):
    with (to / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def images_of(to, kind):
    """Reads an export back as anybody would, ``(N, H, W)``, with the labels."""
    if kind == "numpy":
        return np.load(to / "images.npy")[..., 0], np.load(to / "labels.npy").tolist()
    if kind == "png":
        rows = listed(to)
        return np.stack([np.asarray(Image.open(to / row["file_name"])) for row in rows]), [
            int(row["target_class"]) for row in rows
        ]
    rows = pq.read_table(to / "test.parquet").to_pylist()
    decoded = [np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows]
    return np.stack(decoded), [row["label"] for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 5, 4096])
def test_what_is_read_back_is_the_run_byte_by_byte(run, to, kind, size, monkeypatch):
    monkeypatch.setattr(module, "batch_rows", lambda shape: size)
    done = export_run(run, to, kind)
    images, labels = images_of(to, kind)
    assert done.num_images == len(images) == 12
    assert images.dtype == np.uint8
    assert np.array_equal(images[..., None], run.images())
    assert labels == run.table()["target_class"].to_pylist()
    manifest = json.loads((to / "export.json").read_text())
    assert (manifest["run"], manifest["format"], manifest["num_images"]) == ("small", kind, 12)
    assert manifest["shape"] == [8, 8, 1]


@pytest.mark.parametrize("kind", ["png", "numpy"])
def test_the_table_beside_the_images_is_that_of_the_run(run, to, kind):
    export_run(run, to, kind)
    rows, expected = listed(to), run.table(list(DESCRIPTION)).to_pylist()
    for row, values in zip(rows, expected, strict=True):
        row.pop("file_name", None)
        assert row == {name: str(value) for name, value in values.items()}


def test_parquet_is_a_data_set_for_this_project_and_says_its_features(run, to):
    export_run(run, to, "parquet")
    spec = DatasetSpec(name="sfis", path=str(to / "test.parquet"))
    info = dataset_info(spec)
    assert info.class_names == run.record.class_names
    images, labels = load_split(spec, "test")
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), run.images())
    assert labels.tolist() == run.table()["target_class"].to_pylist()
    schema = pq.read_schema(to / "test.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert features["label"] == {"names": list("0123456789"), "_type": "ClassLabel"}
    assert list(features) == schema.names
    assert pq.read_table(to / "test.parquet", columns=list(DESCRIPTION)).equals(
        run.table(list(DESCRIPTION)), check_metadata=False
    )


def test_the_card_describes_the_data_set_and_names_no_place_on_this_machine(run, to, tmp_path):
    for index in range(12):
        change_row(run, index, lambda row: row.update(fooled=row["cell_index"] < 5))
    export_run(run, to, "parquet", fooled=True)
    text = (to / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["configs"][0]["data_files"] == [{"split": "test", "path": "test.parquet"}]
    assert metadata["size_categories"] == ["n<1K"]
    assert "5 images of 8 x 8 pixels and 1 channel, of which each reached a confidence of 0.9" in body
    columns = re.findall(r"^\| ([a-z_\\]+) \|", body.split("## Columns")[1], flags=re.MULTILINE)
    assert [name.replace("\\", "") for name in columns[1:]] == list(DESCRIPTION)
    for classifier in run.record.classifiers:
        assert classifier.fingerprint in body
    assert str(tmp_path) not in text
    assert 'load_dataset("parquet", data_files={"test": "FOLDER/test.parquet"})' in body
    export_run(run, to, "numpy", overwrite=True)
    assert "### Load" not in (to / "README.md").read_text()


def test_only_fooled_images_on_request(run, to):
    num_fooled = sum(run.table()["fooled"].to_pylist())
    for index in range(12):
        change_row(run, index, lambda row: row.update(fooled=row["cell_index"] in (2, 9)))
    assert num_fooled != 2
    export_run(run, to, "numpy", fooled=True)
    assert [int(row["cell_index"]) for row in listed(to)] == [2, 9]
    assert np.array_equal(np.load(to / "images.npy"), run.images()[[2, 9]])


def test_failed_cells_have_no_image(run, to):
    change_row(run, 3, give_up)
    assert export_run(run, to, "numpy").num_images == 11
    assert "3" not in [row["cell_index"] for row in listed(to)]


def test_without_images_nothing_is_written(run, to):
    for index in range(12):
        change_row(run, index, lambda row: row.update(fooled=False))
    with pytest.raises(InputError, match="no fooled cell; export it without --fooled"):
        export_run(run, to, "png", fooled=True)
    for part in parts(run):
        part.unlink()
    with pytest.raises(InputError, match="no image yet; launch its job first"):
        export_run(run, to, "png")
    assert not to.exists()


def test_a_folder_that_is_there_is_kept_unless_told(run, to):
    export_run(run, to, "png")
    before = (to / "metadata.csv").read_bytes()
    with pytest.raises(InputError, match="exists; choose another folder, or replace it with --overwrite"):
        export_run(run, to, "numpy")
    assert (to / "metadata.csv").read_bytes() == before
    export_run(run, to, "numpy", overwrite=True)
    assert sorted(path.name for path in to.iterdir()) == [
        *("README.md", "export.json", "images.npy", "labels.npy", "metadata.csv")
    ]
    assert [path.name for path in to.parent.iterdir()] == ["set"], "nothing else is left"


def test_a_folder_of_somebody_else_is_never_replaced(run, to):
    to.mkdir(parents=True)
    export_run(run, to, "numpy")  # an empty one is nobody's
    other = to.parent / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds other files"):
        export_run(run, other, "png", overwrite=True)
    assert (other / "chapter.txt").read_text() == "years of work"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_fails_half_way_leaves_nothing(run, to, kind, overwrite, monkeypatch):
    if overwrite:
        export_run(run, to, "png")
    before = sorted(path.name for path in to.parent.rglob("*")) if overwrite else []

    def fail(table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "rebuild_images", fail)
    with pytest.raises(StorageError, match=r"cannot write .*set': No space left on device"):
        export_run(run, to, kind, overwrite=overwrite)
    assert sorted(path.name for path in to.parent.rglob("*")) == before


def test_a_broken_part_is_left_out_and_named(run, to):
    broken = parts(run)[1]
    lost = set(pq.read_table(broken)["cell_index"].to_pylist())
    broken.write_bytes(b"PAR1 nothing PAR1")
    done = CliRunner().invoke(app, ["export", run.folder.location, "-o", str(to), "--format", "numpy"])
    assert done.exit_code == 4
    assert f"left out: results/{broken.name} cannot be read" in done.stderr
    assert {int(row["cell_index"]) for row in listed(to)} == set(range(12)) - lost
    assert list(json.loads((to / "export.json").read_text())["left_out"]) == [f"results/{broken.name}"]


def test_the_command_says_what_it_wrote(run, to):
    arguments = ["export", run.folder.location, "-o", str(to)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert f"12 images in {to}" in done.stdout
    assert len(list(Path(to).rglob("*.png"))) == 12
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    wrong = CliRunner().invoke(app, [*arguments, "--format", "gif", "--overwrite"])
    assert wrong.exit_code == 2
    assert "there is no format 'gif'; use png, numpy, parquet" in wrong.stderr
