import csv
import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sfi_ray.cli import app
from sfi_ray.errors import InputError, StorageError
from sfi_ray.review.compare import compare_pairs, mcnemar_p, signed_rank_p
from sfi_ray.review.pairing import pair_runs
from sfi_ray.store.record import write_record
from sfi_ray.store.run import Run
from tests.review.conftest import DE, INVERSION, change_row, copied, parts
from tests.review.test_verify import give_up

LONGER = {**DE, "generations": 12}
#: The same cells in another order of the grid, and some that the other run has not.
OTHER = {"attack": LONGER, "backgrounds": ["white", "gray", "black"], "k": [3, 1], "target_classes": [7, 0, 5]}


@pytest.fixture
def other(launched, tmp_path):
    return copied(launched(**OTHER), tmp_path / "other")


def what(row):
    return tuple(row[name] for name in ("classifier", "background", "target_class", "k", "replicate"))


def test_cells_are_matched_by_what_they_search_for(run, other):
    pairs = pair_runs(run, other)
    rows_a, rows_b = ({what(row): row for row in each.table().to_pylist()} for each in (run, other))
    common = [key for key in rows_a if key in rows_b]
    assert [what(row) for row in pairs.cells.to_pylist()] == common
    assert len(common) == 8
    for column, values in (("confidence", pairs.confidence), ("evaluations", pairs.evaluations)):
        assert values.tolist() == [[rows[key][column] for key in common] for rows in (rows_a, rows_b)]
    (num_a, first_a), (num_b, first_b) = pairs.unmatched
    assert (num_a, num_b) == (4, 10)
    assert first_a[0] == "mlp, black, 3, k = 1, replicate 0"
    assert first_b[0].startswith("mlp, white")
    assert len(first_b) == 3


def test_a_colour_is_the_same_under_another_name(launched, run):
    renamed = launched(attack=LONGER, backgrounds=["#000000", "#808080"])
    assert len(pair_runs(run, renamed)) == 12


def test_natural_images_are_matched_by_their_pixels(launched, inverted):
    changes = {"attack": {**INVERSION, "steps": 5}, "k": None, "backgrounds": ["black"]}
    fewer = launched(**changes, images={"per_class": 1})
    pairs = pair_runs(inverted, fewer)
    assert len(pairs) == 3
    assert pairs.unmatched[0][0] == 3
    assert pairs.unmatched[1][0] == 0


def test_groups_agree_with_counting_by_hand(run, other):
    change_row(other, 7, lambda row: row.update(confidence=run_confidence(run, other, 7)))  # a tie
    pairs = pair_runs(run, other)
    comparisons = compare_pairs(pairs, ["background", "k"])
    rows_a, rows_b = ({what(row): row for row in each.table().to_pylist()} for each in (run, other))
    groups = defaultdict(list)
    for key in rows_a:
        if key in rows_b:
            groups[()].append((rows_a[key], rows_b[key]))
            groups[key[1], key[3]].append((rows_a[key], rows_b[key]))
    assert [comparison.place for comparison in comparisons] == [
        (),
        ("black", 1),
        ("black", 3),
        ("gray", 1),
        ("gray", 3),
    ]
    assert sum(comparison.ties for comparison in comparisons[1:]) == comparisons[0].ties == 1
    for comparison in comparisons:
        rows = groups[comparison.place]
        assert comparison.num_pairs == len(rows)
        assert comparison.wins == sum(a["confidence"] > b["confidence"] for a, b in rows)
        assert comparison.losses == sum(a["confidence"] < b["confidence"] for a, b in rows)
        assert comparison.num_fooled == (sum(a["fooled"] for a, _ in rows), sum(b["fooled"] for _, b in rows))
        assert comparison.only[1] == sum(b["fooled"] and not a["fooled"] for a, b in rows)
        assert comparison.evaluations == (40 * len(rows), 130 * len(rows))
        means = (np.mean([pair[side]["confidence"] for pair in rows]) for side in (0, 1))
        assert comparison.mean_confidence == pytest.approx(tuple(means))


def run_confidence(run, other, cell_index):
    key = next(what(row) for row in other.table().to_pylist() if row["cell_index"] == cell_index)
    return next(row["confidence"] for row in run.table().to_pylist() if what(row) == key)


def test_a_run_against_itself_is_a_draw(run):
    for comparison in compare_pairs(pair_runs(run, run)):
        assert (comparison.wins, comparison.losses, comparison.ties) == (0, 0, comparison.num_pairs)
        assert (comparison.confidence_p, comparison.fooled_p, comparison.median_difference) == (1.0, 1.0, 0.0)


@given(st.lists(st.integers(1, 10**6), unique=True, max_size=9), st.data())
def test_the_signed_rank_test_counts_all_signs(sizes, data):
    """Without ties its exact p-value is the share of sign patterns with a rank sum at least as far from the middle."""
    signs = [data.draw(st.sampled_from([-1, 1])) for _ in sizes]
    ranks = np.argsort(np.argsort(sizes)) + 1
    middle = ranks.sum() / 2
    distance = abs(sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign > 0) - middle)
    patterns = list(itertools.product([0, 1], repeat=len(sizes)))
    extreme = sum(abs(np.dot(pattern, ranks) - middle) >= distance - 1e-9 for pattern in patterns)
    differences = np.array([size * sign for size, sign in zip(sizes, signs, strict=True)], dtype=float)
    assert signed_rank_p(differences) == pytest.approx(extreme / len(patterns))
    assert signed_rank_p(np.append(differences, [0.0, 0.0])) == pytest.approx(extreme / len(patterns))


def test_the_signed_rank_test_takes_any_number_of_equal_differences():
    assert signed_rank_p(np.zeros(5)) == signed_rank_p(np.zeros(0)) == 1.0
    assert signed_rank_p(np.array([0.5, 0.5, 0.5])) <= 0.25
    assert signed_rank_p(np.full(1000, 0.25)) < 1e-6


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemars_test_tosses_a_coin_for_each_cell_that_one_alone_fooled(first, second):
    total = first + second
    tail = sum(math.comb(total, count) for count in range(min(first, second) + 1)) / 2**total
    assert mcnemar_p(first, second) == pytest.approx(min(1.0, 2 * tail))


def test_failed_cells_and_missing_rows_are_counted(run, other):
    change_row(run, 0, give_up)
    parts(other)[0].unlink()
    pairs = pair_runs(run, other)
    assert pairs.failed == (1, 0)
    assert pairs.missing == (0, 18 - other.table().num_rows)
    assert 0 < len(pairs) < 8
    for index in range(12):
        change_row(run, index, give_up)
    with pytest.raises(InputError, match="nothing to compare: in every cell"):
        compare_pairs(pair_runs(run, other))


def with_record(run, **changes):
    write_record(run.folder, run.record.model_copy(update=changes))
    return Run(run.folder.location)


def test_what_cannot_be_compared_is_refused_by_name(launched, run, tmp_path):
    with pytest.raises(InputError, match=r"have no cell in common: k 1, 3 against 2$"):
        pair_runs(run, launched(k=2))
    far = launched(k=2, backgrounds=["white"])
    with pytest.raises(InputError, match="background black, gray against white; k 1, 3 against 2"):
        pair_runs(run, far)
    retrained = launched(classifiers=[{"name": "mlp", "training": {"epochs": 1}}])
    with pytest.raises(InputError, match="'mlp' is a different network in"):
        pair_runs(run, retrained)
    with pytest.raises(InputError, match=r"only one of .* imitates natural images"):
        pair_runs(run, launched(attack=INVERSION, k=None, backgrounds=["black"], images={"per_class": 2}))
    changed = copied(run, tmp_path / "changed")
    other_classes = tuple("abcdefghij")
    with pytest.raises(InputError, match=r"have different classes: 10 \(0, 1, 2, ...\) and 10 \(a, b, c, ...\)"):
        pair_runs(run, with_record(changed, class_names=other_classes))
    with pytest.raises(InputError, match="images of different sizes"):
        pair_runs(run, with_record(changed, input_shape=(1, 9, 9)))
    job = run.job.model_copy(update={"verification": run.job.verification.model_copy(update={"threshold": 0.8})})
    with pytest.raises(InputError, match=r"have different thresholds: 0.9 and 0.8"):
        pair_runs(run, with_record(copied(run, tmp_path / "again"), job=job))
    with pytest.raises(InputError, match="cannot be grouped by 'colour'; use classifier, background, k, class"):
        compare_pairs(pair_runs(run, run), ["colour"])


def test_a_damaged_run_is_refused_by_name(run, other):
    part = parts(other)[0]
    part.write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=part.name):
        pair_runs(run, other)


def test_the_command_prints_and_writes_the_groups(run, other, tmp_path):
    to = tmp_path / "tables"
    arguments = ["compare", run.folder.location, other.folder.location, "--by", "background", "--output", str(to)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "10 cells of B are not in the other run: mlp, white, 7, k = 3" in " ".join(done.stdout.split())
    rows = list(csv.DictReader((to / "groups.csv").read_text().splitlines()))
    assert [row["background"] for row in rows] == ["all", "black", "gray"]
    assert [int(row["num_pairs"]) for row in rows] == [8, 4, 4]
    assert float(rows[0]["confidence_p"]) == compare_pairs(pair_runs(run, other), [])[0].confidence_p
    assert (to / "groups.md").read_text().count("| all |") == 1
    cells = list(csv.DictReader((to / "cells.csv").read_text().splitlines()))
    assert len(cells) == 8
    for cell in cells:
        assert float(cell["difference"]) == float(cell["confidence_a"]) - float(cell["confidence_b"])
    assert CliRunner().invoke(app, arguments).exit_code == 2
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0
    assert CliRunner().invoke(app, ["compare", run.folder.location, str(tmp_path)]).exit_code == 2
