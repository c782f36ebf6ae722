import numpy as np
import pytest

from sfi_ray.errors import StorageError
from sfi_ray.rounds.detection import DETECTIONS, detect, read_detections, write_scores
from sfi_ray.store.folder import RunFolder


def test_auroc_and_false_positives_are_those_counted_by_hand():
    # Of 4 x 5 pairs, the outlier scores higher in 3 + 5 + 5 + 5 and as high in one.
    outliers, natural = np.array([2.0, 5, 6, 7]), np.array([1.0, 1, 1, 2, 4])
    found = detect("any", "sfi", outliers, natural)
    assert found.auroc == (3 + 0.5 + 15) / 20
    assert found.fpr_at_95_tpr == 2 / 5  # all four outliers are found from 2 on, and so are 2 and 4
    assert found.num_outliers == 4


def test_what_is_kept_is_what_was_scored(tmp_path):
    folder = RunFolder(tmp_path)
    assert read_detections(folder) == []
    outliers, natural, bare = np.array([2.0, 5, 6, 7]), np.array([1.0, 1, 1, 2, 4]), np.array([9.0])
    write_scores(folder, {("a", "sfi"): outliers, ("a", "natural"): natural, ("a", "single_colour"): bare})
    assert read_detections(folder) == [
        detect("a", "sfi", outliers, natural),
        detect("a", "single_colour", bare, natural),
    ]
    folder.write(DETECTIONS, b"broken")
    with pytest.raises(StorageError, match="delete it and launch again"):
        read_detections(folder)
