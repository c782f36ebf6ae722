import math

import pyarrow as pa
import pytest

from sfi_ray.attacks import failed
from sfi_ray.store.bounds import RowBounds, fault_of
from sfi_ray.store.schema import FINDINGS, findings_table
from tests.store.conftest import PROVENANCE, make_cell, make_finding

BOUNDS = RowBounds(
    num_cells=10,
    input_shape=(1, 8, 8),
    num_classes=10,
    num_images=0,
    ks=frozenset([3]),
    names={
        "dataset": frozenset(["digits"]),
        "classifier": frozenset(["mlp"]),
        "background": frozenset(["black"]),
        "attack": frozenset(["de"]),
    },
)


def rows(**changes):
    content = findings_table(
        [make_finding(1), failed(make_cell(2), "it broke"), make_finding(3)], PROVENANCE
    ).to_pylist()
    content[2].update(changes)
    return pa.Table.from_pylist(content, schema=FINDINGS)


def test_rows_of_a_run_have_no_fault_in_any_choice_of_columns():
    table = rows()
    assert fault_of(table, BOUNDS) is None
    assert fault_of(table, RowBounds()) is None
    for name in FINDINGS.names:
        assert fault_of(table.select([name]), BOUNDS) is None
    assert fault_of(table.slice(0, 0), BOUNDS) is None


def pixel(**changes):
    return [{"row": 0, "col": 7, "value": [255], **changes}, {"row": 3, "col": 3, "value": [4]}]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"cell_index": None}, "a row has no cell_index"),
        ({"cell_index": -1}, "cell_index is -1, outside 0 to 9"),
        ({"cell_index": 10}, "cell_index is 10, outside 0 to 9"),
        ({"cell_id": "x" * 32}, "cell_id is not a hash"),
        ({"classifier": "other"}, "classifier holds a value that the run does not have"),
        ({"background": "Black"}, "background holds a value that the run does not have"),
        ({"stop_reason": "tired"}, "stop_reason holds a value that the run does not have"),
        ({"k": 5}, "k is 5, but the run does not have this k"),
        ({"k": 0}, "k is 0, outside 1 to 64"),
        ({"target_class": 10}, "target_class is 10, outside 0 to 9"),
        ({"height": 9}, "height is 9, not 8"),
        ({"channels": 0}, "channels is 0, not 1"),
        ({"confidence": math.nan}, "confidence is nan"),
        ({"confidence": 7.0}, "confidence is 7, outside 0 to 1"),
        ({"predicted_confidence": -0.5}, "predicted_confidence is -0.5, outside 0 to 1"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"seconds": math.inf}, "seconds is inf, outside 0 to"),
        ({"evaluations": -1}, "evaluations is -1, outside 0 to"),
        ({"evaluations": 2**63 - 1}, "evaluations is 9.22337e+18, outside 0 to 1e+12"),
        ({"image_index": 0}, "image_index is 0, but the run has none"),
        ({"background_value": [0, 0]}, "background_value does not have one number for each channel"),
        ({"background_value": None}, "a row has no background_value"),
        ({"pixels": pixel(row=8)}, "a pixel's row is 8, outside 0 to 7"),
        ({"pixels": pixel(col=-1)}, "a pixel's col is -1, outside 0 to 7"),
        ({"pixels": pixel(row=None)}, "a pixel has no row"),
        ({"pixels": [None, None]}, "a pixel has no row"),
        ({"pixels": pixel(value=None)}, "a pixel's value does not have one number for each channel"),
        ({"pixels": pixel(value=[None])}, "a pixel's value does not have one number for each channel"),
        ({"pixels": pixel(value=[1, 2, 3])}, "a pixel's value does not have one number for each channel"),
        ({"pixels": None}, "num_altered is not the number of pixels"),
        ({"num_altered": 1}, "num_altered is not the number of pixels"),
        ({"trace": [{"evaluations": None, "confidence": 0.5}]}, "a point of a trace lacks a number"),
        ({"trace": [None]}, "a point of a trace lacks a number"),
        ({"trace": [{"evaluations": -1, "confidence": 0.5}]}, "a trace's evaluations is -1"),
        ({"trace": [{"evaluations": 1, "confidence": 2.0}]}, "a trace's confidence is 2"),
    ],
    ids=str,
)
def test_what_no_run_writes_is_said_in_a_few_words(changes, fault):
    found = fault_of(rows(**changes), BOUNDS)
    assert found is not None
    assert found.startswith(fault)
    assert len(found) < 100


def test_an_inversion_has_its_likeness_and_may_have_lacked_a_confidence_on_its_way():
    bounds = RowBounds(num_images=5)
    similarity = {"image_confidence": 0.5, "feature_distance": 0.25, "feature_inner_product": -0.5}
    assert fault_of(rows(image_index=4, **similarity), bounds) is None
    assert fault_of(rows(image_index=4), bounds) == "an inversion has no image_confidence"
    assert fault_of(rows(trace=[{"evaluations": 1, "confidence": math.nan}]), bounds) is None
