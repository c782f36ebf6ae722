import numpy as np
import pytest

from sfi_ray.review.transfer import COLUMNS, TRANSFERS, Counts, counts_table, matrix_table, transfer_rows
from tests.report.conftest import make_findings

NAN = float("nan")


def rows(confidences, probabilities, threshold=0.9, destination="other"):
    table = make_findings(*({"confidence": confidence, "target_class": 1} for confidence in confidences))
    scores = np.array(probabilities, dtype=np.float32).reshape(-1, 3)
    return transfer_rows(table.select(list(COLUMNS)), scores, destination, "f" * 32, threshold)


def test_a_threshold_is_reached_by_the_float32_next_to_it():
    found = rows([np.float32(0.9), np.nextafter(np.float32(0.9), np.float32(0))], [[0.05, 0.9, 0.05]] * 2)
    assert found.schema.equals(TRANSFERS)
    assert found["fooled_source"].to_pylist() == [True, False]
    assert found["fooled_destination"].to_pylist() == [True, True]
    assert found["transfers"].to_pylist() == [True, False]


def test_a_nan_never_wins():
    found = rows([0.95, 0.95], [[NAN, 0.25, 0.5], [NAN, NAN, NAN]])
    assert found["destination_predicted_class"].to_pylist() == [2, 0]
    assert found["destination_predicted_confidence"][0].as_py() == 0.5
    assert found["transfers"].to_pylist() == [False, False]


def test_counts_add_up_over_parts_and_no_image_has_no_ratio():
    counts = Counts()
    for part in ([0.95, 0.5], [0.99]):
        counts.add(rows(part, [[0.0, 1.0, 0.0]] * len(part)))
    counts.add(rows([0.95, 0.5, 0.99], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.95, 0.0]], destination="robust"))
    found = counts.of("cnn", 5, "robust")
    assert (found.images, found.own, found.both, found.ratio) == (3, 2, 1, 0.5)
    assert counts.of("cnn", 5, "other").ratio == 1.0
    assert counts.of("cnn", 7, "other").ratio is None
    assert "| cnn | 5 | 3 | 2 | 2 (1.00) | 1 (0.50) |" in matrix_table(counts, 0.9).to_markdown()
    assert counts_table(counts).to_csv().splitlines()[1:] == ["cnn,5,other,3,2,2,1.0", "cnn,5,robust,3,2,1,0.5"]


@pytest.mark.parametrize("size", [0, 1])
def test_no_images_give_no_rows(size):
    assert rows([0.5] * size, [[0.1, 0.2, 0.7]] * size).num_rows == size
