from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from sfi_ray.report import ConfidenceMatrix, confidence_matrices
from sfi_ray.report import matrices as matrices_module
from sfi_ray.report.scan import tally_findings


def only(matrices: list[ConfidenceMatrix]) -> ConfidenceMatrix:
    assert len(matrices) == 1
    return matrices[0]


def assert_same(one: ConfidenceMatrix, other: ConfidenceMatrix) -> None:
    for name in ConfidenceMatrix.__slots__:
        a, b = getattr(one, name), getattr(other, name)
        if isinstance(a, np.ndarray) and a.dtype.kind == "f":
            np.testing.assert_allclose(a, b)
        else:
            np.testing.assert_array_equal(a, b)


def test_means_are_over_finished_replicates_and_failed_cells_are_counted_apart(make_findings: Any) -> None:
    matrix = only(
        confidence_matrices(
            make_findings(
                {"confidence": 0.25, "background_confidence": 0.5},
                {"confidence": 0.75, "background_confidence": 0.5, "replicate": 1},
                {"confidence": None, "replicate": 2},
                {"confidence": 1.0, "target_class": 3, "target_name": "three"},
                {"confidence": None, "background": "white", "target_class": 3, "target_name": "three"},
            )
        )
    )
    assert matrix.backgrounds == ("black", "white")
    assert matrix.target_classes == (0, 3)
    assert matrix.target_names == ("class 0", "three")
    nan = np.nan
    np.testing.assert_array_equal(matrix.mean_confidence, [[0.5, 1], [nan, nan]])
    np.testing.assert_array_equal(matrix.best_confidence, [[0.75, 1], [nan, nan]])
    np.testing.assert_array_equal(matrix.background_confidence, [[0.5, 0], [nan, nan]])
    np.testing.assert_array_equal(matrix.fooled_ratio, [[0, 1], [nan, nan]])
    np.testing.assert_array_equal(matrix.num_finished, [[2, 1], [0, 0]])
    np.testing.assert_array_equal(matrix.num_failed, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(matrix.best_cell_id, [[f"{1:032x}", f"{3:032x}"], ["", ""]])


def test_half_of_the_replicates_fooled_is_a_ratio_of_a_half(make_findings: Any) -> None:
    table = make_findings({"confidence": 0.95}, {"confidence": 0.5}, {"confidence": None})
    assert only(confidence_matrices(table)).fooled_ratio.tolist() == [[0.5]]


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_nan_confidence_is_a_failure(make_findings: Any, on_disk: bool, tmp_path: Path) -> None:
    table = make_findings(
        {"confidence": float("nan"), "fooled": True, "error": None},
        {"confidence": 0.25, "background_confidence": float("nan")},
        {"confidence": 0.75, "background_confidence": 0.125},
    )
    source = table
    if on_disk:  # where the file's statistics know nothing of NaN
        pq.write_table(table, tmp_path / "part.parquet")
        source = pads.dataset(tmp_path)
    matrix = only(confidence_matrices(source))
    assert matrix.mean_confidence.tolist() == [[0.5]]
    assert matrix.background_confidence.tolist() == [[0.125]]
    assert matrix.num_failed.tolist() == [[1]]
    assert matrix.fooled_ratio.tolist() == [[0]]


def test_a_cell_written_twice_counts_once(make_findings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrices_module, "tally_findings", partial(tally_findings, batch_rows=2))
    names = ["a", "b", "a", "c", "c", "d", "b"]
    confidences = {"a": 0.25, "b": 0.25, "c": 0.5, "d": None}
    rows = [{"cell_id": name, "confidence": confidences[name]} for name in names]
    matrix = only(confidence_matrices(make_findings(*rows)))
    assert matrix.num_finished.tolist() == [[3]]
    assert matrix.num_failed.tolist() == [[1]]
    assert matrix.mean_confidence.tolist() == [[pytest.approx(1 / 3)]]


def test_each_classifier_attack_data_set_and_k_has_its_matrix_in_a_stable_order(make_findings: Any) -> None:
    rows = [
        {"classifier": "b", "k": 5},
        {"classifier": "b", "k": 1},
        {"classifier": "a", "k": 25},
        {"classifier": "b", "k": 1, "attack": "gradient"},
        {"classifier": "z", "k": 1, "dataset": "cifar10"},
    ]
    expected = [
        ("cifar10", "z", "evolution", "1"),
        ("mnist", "a", "evolution", "25"),
        ("mnist", "b", "evolution", "1"),
        ("mnist", "b", "evolution", "5"),
        ("mnist", "b", "gradient", "1"),
    ]
    for ordered in (rows, rows[::-1]):
        matrices = confidence_matrices(make_findings(*ordered))
        assert [(m.dataset, m.classifier, m.attack, m.k_label) for m in matrices] == expected


def test_backgrounds_stand_in_the_order_of_the_grid_whichever_part_was_written_first(
    make_findings: Any,
) -> None:
    names = ["white", "black", "#102030"]
    table = make_findings(*({"background": name} for name in names))
    for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
        assert only(confidence_matrices(table.take(order))).backgrounds == tuple(names)


def test_backgrounds_stand_in_order_of_appearance_where_the_grid_does_not_tell(make_findings: Any) -> None:
    table = make_findings(*({"background": name, "cell_index": 0} for name in "cab"))
    assert only(confidence_matrices(table)).backgrounds == ("c", "a", "b")


def test_up_to_12_distinct_k_have_a_matrix_each(make_findings: Any) -> None:
    matrices = confidence_matrices(make_findings(*({"k": k} for k in range(12, 0, -1))))
    assert [matrix.k_label for matrix in matrices] == [str(k) for k in range(1, 13)]


def test_more_than_12_distinct_k_share_one_matrix(make_findings: Any) -> None:
    rows = [{"k": k, "confidence": k / 128} for k in range(1, 14)]
    one, other = confidence_matrices(make_findings(*rows, {"k": 3, "classifier": "other"}))
    assert one.k_label == "1-13"
    assert (one.k_min, one.k_max) == (1, 13)
    assert one.num_finished.tolist() == [[13]]
    np.testing.assert_allclose(one.mean_confidence, 7 / 128)
    assert one.best_cell_id.tolist() == [[f"{12:032x}"]]
    assert other.k_label == "3"


def test_of_equally_good_replicates_the_lowest_id_is_best_in_any_order(make_findings: Any) -> None:
    table = make_findings(*({"cell_id": name, "confidence": 0.5} for name in "cab"))
    for order in ([0, 1, 2], [2, 1, 0]):
        assert only(confidence_matrices(table.take(order))).best_cell_id.tolist() == [["a"]]


def test_a_class_without_a_name_is_called_by_its_number(make_findings: Any) -> None:
    table = make_findings({"target_class": 7, "target_name": None})
    assert only(confidence_matrices(table)).target_names == ("7",)


def random_findings(make_findings: Any, num_rows: int) -> pa.Table:
    generator = np.random.default_rng(0)
    return make_findings(
        *(
            {
                "background": str(generator.choice(["black", "white", "red"])),
                "target_class": int(generator.integers(4)),
                "confidence": None if generator.random() < 0.1 else float(generator.random()),
                "k": int(generator.choice([1, 5])),
            }
            for _ in range(num_rows)
        )
    )


def test_a_data_set_in_many_parts_read_in_small_batches_gives_what_one_table_gives(
    make_findings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = random_findings(make_findings, 300)
    for part in range(6):
        pq.write_table(table.slice(part * 50, 50), tmp_path / f"{part}.parquet")
    expected = confidence_matrices(table)
    tally = partial(tally_findings, batch_rows=7, partial_rows=20)
    monkeypatch.setattr(matrices_module, "tally_findings", tally)
    matrices = confidence_matrices(pads.dataset(tmp_path))
    assert len(matrices) == len(expected) == 2
    for matrix, other in zip(matrices, expected, strict=True):
        assert_same(matrix, other)


def test_matrices_agree_with_a_plain_loop(make_findings: Any) -> None:
    table = random_findings(make_findings, 200)
    rows = table.to_pylist()
    for matrix in confidence_matrices(table):
        for row, background in enumerate(matrix.backgrounds):
            for col, target_class in enumerate(matrix.target_classes):
                here = [
                    finding["confidence"]
                    for finding in rows
                    if (finding["k"], finding["background"], finding["target_class"])
                    == (matrix.k_min, background, target_class)
                ]
                finished = [confidence for confidence in here if confidence is not None]
                assert matrix.num_finished[row, col] == len(finished)
                assert matrix.num_failed[row, col] == len(here) - len(finished)
                if finished:
                    assert matrix.mean_confidence[row, col] == pytest.approx(np.mean(finished))
                    assert matrix.best_confidence[row, col] == max(finished)


def test_pixels_are_not_read(make_findings: Any, tmp_path: Path) -> None:
    pq.write_table(make_findings({}).drop_columns(["pixels", "trace"]), tmp_path / "part.parquet")
    assert len(confidence_matrices(pads.dataset(tmp_path))) == 1


def test_nothing_gives_no_matrices(make_findings: Any, tmp_path: Path) -> None:
    assert confidence_matrices(make_findings()) == []
    assert confidence_matrices(pads.dataset(tmp_path, format="parquet")) == []


def test_arrays_are_read_only(make_findings: Any) -> None:
    matrix = only(confidence_matrices(make_findings({})))
    with pytest.raises(ValueError, match="read-only"):
        matrix.mean_confidence[0, 0] = 1
