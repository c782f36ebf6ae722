"""The outlier class, the split and the four accuracies, on a toy where they are counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.errors import InputError
from sfi_ray.rounds.measures import attack_record, count_right, verdicts
from sfi_ray.rounds.record import (
    AttackRecord,
    ClassOutcome,
    Counted,
    FinalRecord,
    RoundRecord,
    SplitRecord,
    read_final,
    read_round,
    write_round,
)
from sfi_ray.rounds.split import Searched, earlier_rounds, split
from sfi_ray.store.folder import RunFolder


def grid(replicates, classes, backgrounds=1, fooling=lambda *_: True, failed=lambda *_: False):
    """Cells in the order of a grid: backgrounds slowest, classes fastest."""
    places = [(b, r, c) for b in range(backgrounds) for r in range(replicates) for c in range(classes)]
    return [
        Searched(
            index=index,
            target_class=c,
            background=b,
            replicate=r,
            has_failed=failed(b, r, c),
            is_fooling=not failed(b, r, c) and fooling(b, r, c),
        )
        for index, (b, r, c) in enumerate(places)
    ]


def record(number=1, natural=(8, 10), outliers=(3, 4), classes=((4, 0, 4, 4), (4, 1, 0, 3)), parts=(6, 2, 6, 1)):
    outcomes = tuple(
        ClassOutcome(target_class=i, target_name=f"class {i}", searched=s, failed=f, fooling=fooling, found=found)
        for i, (s, f, fooling, found) in enumerate(classes)
    )
    return RoundRecord(
        round=number,
        fingerprint="0" * 32,
        trained_with={0: 6},
        natural=Counted(right=natural[0], total=natural[1]),
        outliers=Counted(right=outliers[0], total=outliers[1]),
        attack=AttackRecord(backgrounds=("black",), classes=outcomes),
        split=SplitRecord(wanted_train=parts[0], wanted_held_out=parts[1], train=parts[2], held_out=parts[3]),
    )


def test_the_split_takes_replicates_in_turn_so_that_classes_and_backgrounds_have_their_share():
    # Two backgrounds, three replicates, two classes: cells 0-5 on one background, 6-11 on the other.
    parted = split(grid(replicates=3, classes=2, backgrounds=2), train=8, held_out=3, sfis="all")
    assert parted.train == (0, 1, 6, 7, 2, 3, 8, 9)
    assert parted.held_out == (4, 5, 10)


def test_the_papers_split_is_five_hundred_and_one_hundred_of_each_class():
    cells = grid(replicates=600, classes=10)
    parted = split(cells, train=5000, held_out=1000, sfis="all")
    for part, each in ((parted.train, 500), (parted.held_out, 100)):
        assert [sum(index % 10 == target for index in part) for target in range(10)] == [each] * 10


def test_a_split_larger_than_what_was_found_shrinks_in_proportion_and_says_which_class_gave_none():
    # Class 1 is never fooled, so 5 of 10 cells are SFIs; wanted are 6 and 4, a third of 5 is left for testing.
    cells = grid(replicates=5, classes=2, fooling=lambda _b, _r, c: c == 0)
    parted = split(cells, train=6, held_out=4, sfis="fooling")
    assert parted.train == (0, 2, 4)
    assert parted.held_out == (6, 8)
    attack = attack_record(cells, [(0, "zero"), (1, "one")], ["black"], "fooling")
    assert attack.without_sfi == ("one",)
    short = record(parts=(6, 4, 3, 2)).model_copy(update={"attack": attack})
    assert short.shortage == (
        "M1 gave 5 of the 10 SFIs of the split (none of class one): 3 to train with instead of 6, "
        "2 held out instead of 4"
    )
    assert record(parts=(6, 2, 6, 2)).shortage is None


def test_images_that_do_not_fool_train_too_unless_the_job_says_otherwise_and_failed_cells_never():
    cells = grid(replicates=2, classes=2, fooling=lambda _b, r, _c: r == 0, failed=lambda _b, r, c: (r, c) == (1, 1))
    assert split(cells, 4, 1, "all") == split(cells[:3], 4, 1, "all")
    assert split(cells, 2, 0, "fooling").train == (0, 1)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), max_size=40),
    st.integers(1, 30),
    st.integers(0, 30),
    st.sampled_from(["all", "fooling"]),
)
def test_a_split_never_shares_an_sfi_nor_takes_what_was_not_found(cells, train, held_out, sfis):
    searched = [
        Searched(i, target, 0, i, failed, fools and not failed) for i, (target, failed, fools) in enumerate(cells)
    ]
    parted = split(searched, train, held_out, sfis)
    found = {cell.index for cell in searched if cell.is_found(sfis)}
    assert not set(parted.train) & set(parted.held_out)
    assert set(parted.train) | set(parted.held_out) <= found
    assert len(parted.train) + len(parted.held_out) == min(len(found), train + held_out)
    assert split(reversed(searched), train, held_out, sfis) == parted


@pytest.mark.parametrize("sfis", ["all", "fooling"])
def test_a_bare_background_is_in_neither_part(sfis):
    searched = [Searched(i, 0, 0, i, has_failed=False, is_fooling=True, is_bare=i % 2 == 0) for i in range(20)]
    parted = split(searched, 5, 5, sfis)
    assert sorted(parted.train + parted.held_out) == list(range(1, 20, 2))


@pytest.mark.parametrize(
    ("number", "earlier", "expected"), [(0, "keep", []), (3, "keep", [0, 1, 2]), (3, "drop", [2]), (0, "drop", [])]
)
def test_a_model_is_trained_with_all_rounds_before_it_or_the_last_one(number, earlier, expected):
    assert list(earlier_rounds(number, earlier)) == expected


def test_an_outlier_is_the_class_behind_the_others():
    # Two classes and that of outliers.
    log_probs = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7], [0.2, 0.5, 0.3]], np.float32))
    assert verdicts(log_probs, 2, None).tolist() == [0, 2, 1]


def test_without_an_outlier_class_an_outlier_is_what_no_class_is_sure_of():
    log_probs = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.05, 0.95]], np.float32))
    assert verdicts(log_probs, 2, None).tolist() == [0, 0, 1]
    assert verdicts(log_probs, 2, 0.9).tolist() == [0, 2, 1]


def test_the_four_accuracies_are_those_counted_by_hand():
    # Of ten natural images M1 takes two for outliers, of four held-out SFIs one for class 0.
    natural = count_right(np.array([0, 1, 0, 1, 0, 1, 0, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1, 0, 1, 0, 1]))
    outliers = count_right(np.array([2, 2, 0, 2]), np.full(4, 2))
    assert (natural.right, natural.total, outliers.right, outliers.total) == (8, 10, 3, 4)
    counted = record(natural=(natural.right, natural.total), outliers=(outliers.right, outliers.total))
    assert counted.natural.share == 0.8
    assert counted.defence == 0.75
    assert counted.combined == 11 / 14
    # Class 0 was fooled in 4 of 4 cells, class 1 in none of the 3 that did not fail.
    assert [outcome.ratio for outcome in counted.attack.classes] == [1.0, 0.0]
    assert counted.attack.accuracy == 4 / 7


@pytest.mark.parametrize(
    ("number", "natural", "combined"), [(1, 77, 79), (2, 79, 82), (3, 78, 83), (4, 79, 85)], ids=str
)
def test_combined_accuracy_is_that_of_table_16(number, natural, combined):
    """10,000 natural images and 1,000 held-out SFIs of each earlier round, all of which are detected."""
    of_paper = record(number, (natural * 100, 10_000), (number * 1000, number * 1000))
    assert int(100 * of_paper.combined) == combined


def test_before_there_are_sfis_there_is_neither_defence_nor_combined_accuracy():
    first = record(0, outliers=(0, 0))
    assert first.defence is None
    assert first.combined is None
    assert first.model == "M0"


def test_records_come_back_and_a_round_without_one_is_not_finished(tmp_path):
    folder = RunFolder(tmp_path / "round_1")
    assert read_round(folder) is None
    write_round(folder, record())
    assert read_round(folder) == record()
    final = FinalRecord(round=1, attack=record().attack)
    write_round(folder, final)
    assert read_final(folder) == final
    with pytest.raises(InputError, match="is not the record of a round"):
        read_round(folder)
