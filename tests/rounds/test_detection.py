import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from sfi_ray.errors import StorageError
from sfi_ray.rounds.detection import DETECTIONS, detect, read_detections, write_scores
from sfi_ray.store.folder import RunFolder


def test_auroc_and_false_positives_are_those_counted_by_hand():
    # Of 4 x 5 pairs, the outlier scores higher in 3 + 5 + 5 + 5 and as high in one.
    outliers, natural = np.array([2.0, 5, 6, 7]), np.array([1.0, 1, 1, 2, 4])
    found = detect("any", "sfi", outliers, natural)
    assert found.auroc == (3 + 0.5 + 15) / 20
    assert found.fpr_at_95_tpr == 2 / 5  # all four outliers are found from 2 on, and so are 2 and 4
    assert found.missed_at_5_fpr == 1 / 4  # all five natural images pass up to 4, and so does 2
    assert found.num_outliers == 4
    # From the highest threshold down: 5, 6 and 7; 4; 2, which an outlier and a natural image have; and all others.
    assert found.curve == ((0, 0), (0, 1 / 4), (0, 3 / 4), (1 / 5, 3 / 4), (2 / 5, 1), (1, 1))


SCORES = st.lists(st.integers(0, 6).map(float) | st.floats(-5, 5), min_size=1, max_size=60).map(np.array)


def counted_one_by_one(outliers, natural):
    """Both rates, by trying every score as a threshold, in whole numbers."""
    rates = []
    for found, taken in ((outliers, natural), (-natural, -outliers)):
        at = [
            sum(score >= threshold for score in taken.tolist())
            for threshold in found.tolist()
            if 100 * sum(score >= threshold for score in found.tolist()) >= 95 * len(found)
        ]
        rates.append(min(at) / len(taken))
    return rates


@given(outliers=SCORES, natural=SCORES)
@example(outliers=np.repeat([1.0, 2.0], [1, 19]), natural=np.repeat([0.0, 1.0, 2.0], [0, 5, 95]))
@example(outliers=np.array([3.0, 3, 3, 1]), natural=np.array([3.0, 3, 1, 0]))
@settings(deadline=None)
def test_rates_are_those_counted_one_by_one_with_ties_too(outliers, natural):
    found = detect("any", "sfi", outliers, natural)
    assert [found.fpr_at_95_tpr, found.missed_at_5_fpr] == counted_one_by_one(outliers, natural)


def test_tied_scores_count_as_far_as_they_are_needed():
    # 19 of 20 outliers are found from 2 on, with 19 of 20 natural images; the curve has no point there.
    ends = np.repeat([2.0, 1.0], [19, 1])
    assert detect("any", "sfi", ends, ends).fpr_at_95_tpr == 0.95


def test_a_long_curve_is_thinned_to_points_of_its_own_that_lose_next_to_no_area():
    rng = np.random.default_rng(0)
    outliers, natural = rng.normal(1.5, 1, 3000), rng.normal(0, 1, 5000)
    found = detect("any", "sfi", outliers, natural)
    false_positives, true_positives = np.array(found.curve).T
    assert 50 < len(found.curve) <= 201
    assert (found.curve[0], found.curve[-1]) == ((0, 0), (1, 1))
    assert (np.diff(false_positives) >= 0).all()
    assert (np.diff(true_positives) >= 0).all()
    assert np.trapezoid(true_positives, false_positives) == pytest.approx(found.auroc, abs=2e-3)
    whole, found_of_all, _ = roc_curve(np.repeat([1, 0], [3000, 5000]), np.concatenate([outliers, natural]))
    assert set(found.curve) <= set(zip(whole.tolist(), found_of_all.tolist(), strict=True))
    assert detect("any", "sfi", outliers, natural) == found


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
