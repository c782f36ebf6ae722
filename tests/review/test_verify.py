import json

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from torch import nn
from typer.testing import CliRunner

from sfi_ray import Classifier, Run, launch
from sfi_ray.cli import app
from sfi_ray.errors import InputError, ResourceError
from sfi_ray.review import verify as module
from sfi_ray.review.verify import verify_run
from tests.review.conftest import change_row, make_job, parts


def texts(run, **options):
    found = verify_run(run, device="cpu", **options)
    assert found.num_faults == len(found.faults)
    return [f"{fault.place}: {fault.text}" for fault in found.faults]


def test_an_untouched_run_holds_to_the_last_bit(run):
    found = verify_run(run, device="cpu", tolerance=0.0)
    assert found.holds
    assert (found.num_rows, found.num_scored, found.num_missing) == (12, 12, 0)
    assert found.largest_difference == 0.0


def test_inversions_hold_with_their_likeness(inverted):
    assert set(inverted.table()["k"].to_pylist()) == {64}
    found = verify_run(inverted, device="cpu", tolerance=0.0)
    assert found.holds, found.faults
    assert found.num_scored == 6


def test_what_is_found_does_not_depend_on_how_many_rows_are_read_at_once(run, monkeypatch):
    change_row(run, 5, lambda row: row.update(confidence=0.5))
    expected = texts(run)
    monkeypatch.setattr(module, "batch_rows", lambda shape: 1)
    assert texts(run) == expected


def first_pixel(change):
    def apply(row):
        pixels = row["pixels"]
        pixels[0] = {**pixels[0], **change(pixels[0])}
        row["pixels"] = pixels

    return apply


def twice_on_one_spot(row):
    row["pixels"] = [row["pixels"][0]] * 2
    row["num_altered"] = 2


def without_effect(row):
    row["pixels"] = [*row["pixels"][1:], {**row["pixels"][0], "value": row["background_value"]}]


TAMPERED = {
    "confidence": (lambda row: row.update(confidence=row["confidence"] + 0.01), ["confidence is"]),
    "confidence missing": (lambda row: row.update(confidence=None), ["confidence is None"]),
    "confidence NaN": (lambda row: row.update(confidence=float("nan")), ["confidence is nan"]),
    "background confidence": (
        lambda row: row.update(background_confidence=row["background_confidence"] + 0.01),
        ["background_confidence is"],
    ),
    "predicted class": (
        lambda row: row.update(predicted_class=(row["predicted_class"] + 1) % 10),
        ["predicted_class is"],
    ),
    "predicted class that does not exist": (lambda row: row.update(predicted_class=10), ["predicted_class is 10"]),
    "predicted confidence": (
        lambda row: row.update(predicted_confidence=row["predicted_confidence"] - 0.01),
        ["predicted_confidence is"],
    ),
    "fooled": (lambda row: row.update(fooled=not row["fooled"]), ["fooled is"]),
    "pixel moved away": (first_pixel(lambda p: {"row": 8}), ["a pixel at row 8"]),
    "pixel's value": (first_pixel(lambda p: {"value": [(p["value"][0] + 100) % 256]}), ["confidence is"]),
    "pixel of three channels": (first_pixel(lambda p: {"value": [1, 2, 3]}), ["1 channel"]),
    "pixel twice": (twice_on_one_spot, ["two share a position"]),
    "pixel without effect": (without_effect, ["two share a position, or one has the background's colour"]),
    "k": (lambda row: row.update(k=row["k"] + 1), ["k is 4, but 3 in the grid"]),
    "num_altered": (lambda row: row.update(num_altered=row["num_altered"] - 1), ["num_altered is"]),
    "fingerprint": (lambda row: row.update(classifier_fingerprint="0" * 32), ["classifier_fingerprint is"]),
    "classifier": (lambda row: row.update(classifier="mlp2"), ["classifier is 'mlp2'"]),
    "target class": (lambda row: row.update(target_class=9), ["target_class is 9"]),
    "background": (lambda row: row.update(background="gray"), ["background is 'gray'"]),
    "cell id": (lambda row: row.update(cell_id="0" * 32), ["cell_id is"]),
    "seed": (lambda row: row.update(seed=1), ["seed is 1"]),
    "size": (lambda row: row.update(height=9), ["height is 9"]),
    "settings": (lambda row: row.update(attack_settings="{}"), ["attack_settings differ from"]),
    "settings that are no JSON": (
        lambda row: row.update(attack_settings="{"),
        ["attack_settings differ from the job's"],
    ),
    "an error": (lambda row: row.update(error="it broke"), ["error is set"]),
    "a failure that has results": (lambda row: row.update(stop_reason="failed"), ["the cell failed, but"]),
    "no such cell": (lambda row: row.update(cell_index=12), ["the grid has the cells 0 to 11"]),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_row_that_was_tampered_with_is_named(run, what):
    change, expected = TAMPERED[what]
    change_row(run, 4, change)
    found = texts(run)
    assert [text for text in found if expected[0] in text], found
    place = "cell 12" if what == "no such cell" else "cell 4"
    others = [text for text in found if not text.startswith(f"{place} ") and "no readable row" not in text]
    assert not others, "the other rows are sound"


def test_more_pixels_than_k_are_a_fault(run):
    spare = {"row": 0, "col": 0, "value": [77]}

    def add(row):
        row["pixels"] = [{"row": 7, "col": col, "value": [200]} for col in range(3)] + [spare]
        row["num_altered"] = 4

    change_row(run, 4, add)
    assert "cell 4 (mlp, black, class 3, k = 3, replicate 0): 4 pixels are altered, but k is 3" in texts(run)


def test_weights_that_were_changed_are_named_and_score_nothing(run):
    path = f"{run.folder.location}/models/mlp.safetensors"
    state = safetensors.torch.load_file(path)
    name = next(iter(state))
    state[name] = state[name] + 1e-6
    safetensors.torch.save_file(state, path)
    found = verify_run(run, device="cpu")
    (fault,) = found.faults
    assert fault.place == "classifier 'mlp'"
    assert "is not the one that" in fault.text
    assert (found.num_rows, found.num_scored) == (12, 0)


@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_weights_that_cannot_be_read_are_named(run, content):
    if content is None:
        run.folder.delete("models/mlp.safetensors")
    else:
        run.folder.write("models/mlp.safetensors", content)
    (text,) = texts(run)
    assert text.startswith("classifier 'mlp': its images cannot be re-scored")


def test_a_broken_part_is_named_and_nothing_else_is_lost(run):
    broken, *others = parts(run)
    broken.write_bytes(broken.read_bytes()[:-100])
    found = verify_run(run, device="cpu")
    assert [fault.place for fault in found.faults] == [f"results/{broken.name}", "the run"]
    assert (
        found.num_scored
        == found.num_rows
        == 12 - found.num_missing
        == sum(pq.read_metadata(path).num_rows for path in others)
    )


def test_a_part_whose_pixels_are_damaged_is_named_once(run):
    part = parts(run)[0]
    column = next(
        chunk
        for chunk in (pq.read_metadata(part).row_group(0).column(i) for i in range(40))
        if chunk.path_in_schema.startswith("pixels")
    )
    content = bytearray(part.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 20] = b"\xff" * 20
    part.write_bytes(content)
    found = verify_run(run, device="cpu")
    assert [fault.place for fault in found.faults] == [f"results/{part.name}"]
    assert found.num_missing == 0
    assert found.num_scored > 0


def append(run, change):
    table = pq.read_table(parts(run)[0])
    rows = table.to_pylist()
    change(rows[0])
    path = parts(run)[-1].with_name("part-999.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1], schema=table.schema), path)


def test_equal_rows_of_one_cell_are_no_fault_and_others_are(run):
    append(run, lambda row: row.update(seconds=9.0))
    found = verify_run(run, device="cpu")
    assert found.holds
    assert (found.num_rows, found.num_doubled) == (13, 1)
    append(run, lambda row: row.update(evaluations=row["evaluations"] + 1))
    (text,) = texts(run)
    assert "another row of the same cell differs from it" in text


def give_up(row):
    nothing = ("confidence", "background_confidence", "predicted_class", "predicted_confidence", "num_altered")
    row.update(dict.fromkeys(nothing), fooled=False, pixels=[], stop_reason="failed", error="it broke")


def test_a_cell_that_one_worker_gave_up_and_another_searched_is_no_fault(run):
    append(run, give_up)
    found = verify_run(run, device="cpu")
    assert found.holds, found.faults
    assert (found.num_failed, found.num_scored) == (1, 12)


def test_a_failed_cell_needs_a_reason(run):
    change_row(run, 2, lambda row: (give_up(row), row.update(error=None)))
    (text,) = texts(run)
    assert "cell 2" in text
    assert "failed without a reason" in text


def test_rows_that_are_gone_from_a_finished_run_are_missed(run):
    parts(run)[0].unlink()
    (text,) = texts(run)
    assert "no readable row for" in text


def test_an_unfinished_run_holds_and_says_what_is_missing(run):
    parts(run)[0].unlink()
    progress = json.loads(run.folder.read("progress.json"))
    run.folder.write("progress.json", json.dumps({**progress, "state": "interrupted"}).encode())
    found = verify_run(run, device="cpu")
    assert found.holds
    assert found.num_missing == 12 - found.num_rows > 0


def test_a_run_without_rows_is_said_to_be_empty(run):
    for part in parts(run):
        part.unlink()
    with pytest.raises(InputError, match="has no rows yet; launch its job first"):
        verify_run(run, device="cpu")


@pytest.mark.parametrize(
    ("column", "value"),
    [("image_confidence", 0.5), ("feature_distance", 9.0), ("feature_inner_product", 0.01), ("image_confidence", None)],
)
def test_a_likeness_that_was_tampered_with_is_named(inverted, column, value):
    change_row(inverted, 3, lambda row: row.update({column: value}))
    (text,) = texts(inverted)
    assert text.startswith("cell 3 ")
    assert f"{column} is" in text


def test_natural_images_that_are_gone_are_named(inverted):
    inverted.folder.delete("images.parquet")
    (text,) = texts(inverted)
    assert "images.parquet" in text


def test_a_classifier_given_in_code_has_to_be_given_again(tmp_path):
    torch.manual_seed(0)
    given = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), name="toy", input_shape=(1, 8, 8), num_classes=10
    )
    run = launch(make_job(tmp_path, classifiers=["toy"]), classifiers={"toy": given}, in_process=True)
    (text,) = texts(run)
    assert "was given in code" in text
    assert verify_run(run, classifiers={"toy": given}, device="cpu", tolerance=0.0).holds
    other = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), name="toy", input_shape=(1, 8, 8), num_classes=10
    )
    assert "is not the one that" in texts(run, classifiers={"toy": other})[0]
    with pytest.raises(InputError, match="has no classifier 'tyo', only toy"):
        verify_run(run, classifiers={"tyo": given})


def test_a_device_that_is_not_there_is_refused(run):
    with pytest.raises(InputError, match="no such device: 'tpu'"):
        verify_run(run, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ResourceError, match="finds no GPU"):
            verify_run(run, device="cuda")


def test_the_command_names_rows_and_ends_with_its_own_exit_code(run):
    def call():
        return CliRunner().invoke(app, ["verify", run.folder.location, "--device", "cpu"])

    done = call()
    assert done.exit_code == 0, done.output
    assert "12 rows: 12 images re-scored" in done.stdout
    assert "everything holds" in done.stdout
    for index in range(12):
        change_row(run, index, lambda row: row.update(confidence=np.nextafter(0.0, 1.0), k=64, seed=0))
    done = call()
    assert done.exit_code == 4
    assert "cell 0 (mlp, black, class 0, k = 64, replicate 0): k is 64, but 1 in the grid" in done.stderr
    assert len(done.stderr.splitlines()) == 22
    assert "more faults" in done.stderr
    nothing = CliRunner().invoke(app, ["verify", f"{run.folder.location}/results"])
    assert nothing.exit_code == 2
    assert "holds no run" in nothing.stderr


def test_a_run_on_another_file_system_is_verified_there(run):
    fsspec.filesystem("memory").put(run.folder.location, "/verified", recursive=True)
    found = verify_run(Run("memory://verified"), device="cpu", tolerance=0.0)
    assert found.holds, found.faults
    assert found.num_scored == 12
