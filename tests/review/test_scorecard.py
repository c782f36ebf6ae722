"""Scorecards share_of by hand: two classes, two backgrounds, two seeds, and k of 1 and 5."""

import json

import numpy as np
import pytest
from scipy import stats

from sfi_ray.errors import InputError
from sfi_ray.report.site.scorecard_page import ShownImage, render_scorecard
from sfi_ray.review.scorecard import (
    ANY,
    Audited,
    BareBackground,
    Costs,
    FooledCells,
    GridFacts,
    Scorecard,
    detector_result,
    read_scorecard,
    share_of,
)
from sfi_ray.review.scorecard_tables import (
    compare_scorecards,
    comparison_csv,
    headline,
    scorecard_markdown,
    shares_table,
)

GRID = GridFacts(
    standard=1,
    is_standard=False,
    backgrounds=("black", "gray"),
    ks=(1, 5),
    seeds=2,
    classes=(3, 7),
    threshold=0.9,
    attack={"kind": "map_elites", "max_evaluations": 9},
)
NAMES = [f"class {number}" for number in range(10)]
EVIL = "</td><script>alert(1)</script>"


def rows(fooled, failed=()):
    """All sixteen cells; `fooled` and `failed` hold (background, k, seed, class)."""
    return [
        {
            "background": background,
            "k": k,
            "replicate": seed,
            "target_class": index,
            "fooled": (background, k, seed, index) in fooled,
            "confidence": 0.5,
            "stop_reason": "failed" if (background, k, seed, index) in failed else "budget",
        }
        for background in ("black", "gray")
        for k in (1, 5)
        for seed in (0, 1)
        for index in (3, 7)
    ]


# Class 3: with seed 0 one pixel on black, with seed 1 five pixels on gray. Class 7: with seed 0 five pixels on black.
FOOLED = {("black", 1, 0, 3), ("gray", 5, 1, 3), ("black", 5, 0, 7)}


def shares(fooled=FOOLED, failed=()):
    found = FooledCells(rows(fooled, failed), GRID).shares()
    return {(one.k, one.background): (one.count, one.total, one.by_seed) for one in found}


def test_shares_are_those_counted_by_hand():
    assert shares() == {
        (1, ANY): (1, 4, (0.5, 0.0)),
        (1, "black"): (1, 4, (0.5, 0.0)),
        (1, "gray"): (0, 4, (0.0, 0.0)),
        # Class 3 with seed 0 counts at k = 5, too, although its own cell did not fool: one pixel did.
        (5, ANY): (3, 4, (1.0, 0.5)),
        (5, "black"): (2, 4, (1.0, 0.0)),
        (5, "gray"): (1, 4, (0.0, 0.5)),
    }


def test_failed_cells_are_not_counted_unless_fewer_pixels_fooled():
    failed = {("black", 5, 0, 3), ("black", 5, 1, 7), ("gray", 1, 1, 7)}
    found = shares(failed=failed)
    assert found[5, "black"] == (2, 3, (1.0, 0.0))
    assert found[1, "gray"] == (0, 3, (0.0, 0.0))
    # On any background class 7 with seed 1 is not known at k = 5, as black failed and gray did not fool.
    assert found[5, ANY] == (3, 3, (1.0, 1.0))
    everything = shares(
        set(), {(row["background"], row["k"], row["replicate"], row["target_class"]) for row in rows(())}
    )
    assert everything[5, ANY] == (0, 0, (None, None))


def test_the_smallest_k_of_each_class():
    third, seventh = FooledCells(rows(FOOLED), GRID).classes(NAMES)
    assert (third.index, third.name, third.smallest_k, third.by_seed) == (3, "class 3", 1, (1, 5))
    assert third.by_background == {"black": 1, "gray": 5}
    assert (seventh.smallest_k, seventh.by_seed, seventh.by_background) == (5, (5, None), {"black": 5, "gray": None})


def test_the_interval_is_wilsons():
    values = share_of(3, 4, [1.0, 0.5])
    # (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), by hand for p = 3/4, n = 4, z = 1.96.
    z, p, n = stats.norm.ppf(0.975), 0.75, 4
    middle, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (values["low"], values["high"]) == pytest.approx(
        ((middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n))
    )
    assert share_of(0, 4, [])["low"] == 0.0
    assert share_of(4, 4, [])["high"] == 1.0
    assert share_of(0, 0, [None])["share"] is None


def test_what_a_detector_catches_at_five_percent_false_alarms():
    natural = np.arange(100.0)  # 95 to 99 may be flagged: 5 % of them
    scores = np.array([95.0, 96.0, 200.0, 3.0])
    found = detector_result("d", 0.75, scores, np.array([0, 0, 1, 1]), natural, np.array([99.0, 0.0]), 3)
    assert (natural > 95).sum() == 4
    assert (found.count, found.total, found.share) == (2, 4, 0.5)
    assert found.by_seed == (0.5, 0.5, None)
    assert found.backgrounds_caught == 1


def test_a_detector_of_equal_scores_catches_nothing():
    found = detector_result("d", 0.5, np.ones(3), np.zeros(3, int), np.ones(50), np.ones(2), 1)
    assert (found.count, found.backgrounds_caught) == (0, 0)


def card(fooled=FOOLED, name="net", **grid):
    facts = GRID.model_copy(update=grid)
    cells = FooledCells(rows(fooled), facts)
    natural = np.arange(100.0)
    return Scorecard(
        model=Audited(
            name=name,
            fingerprint="f",
            source="mlp",
            dataset="digits",
            input_shape=(1, 8, 8),
            num_classes=10,
            accuracy=0.5,
            num_natural=100,
        ),
        grid=facts,
        shares=tuple(cells.shares()),
        classes=tuple(cells.classes(NAMES)),
        backgrounds=(
            BareBackground(background="black", value=(0,), predicted_class=1, predicted_name=EVIL, confidence=0.5),
            BareBackground(background="gray", value=(128,), predicted_class=1, predicted_name="b", confidence=0.25),
        ),
        detectors=(detector_result("knn", 0.9, np.array([200.0]), np.array([0]), natural, np.array([0.0]), 2),),
        detectors_missing=None,
        costs=Costs(cells=16, failed=0, evaluations=100, backward_passes=10, verifications=20),
        versions={"sfi-ray": "0"},
    )


def test_a_scorecard_survives_its_file_and_says_its_version():
    content = card().model_dump_json()
    assert json.loads(content)["schema_version"] == 1
    assert read_scorecard(content.encode(), "x") == card()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version: Input should be 1"),
        ({"shares": None}, "shares"),
        ({"more": 1}, "more: Extra inputs"),
    ],
)
def test_another_file_is_refused_by_name(change, message):
    content = {**json.loads(card().model_dump_json()), **change}
    with pytest.raises(InputError, match=message):
        read_scorecard(json.dumps(content).encode(), "x")
    with pytest.raises(InputError, match="'x' is not a scorecard"):
        read_scorecard(b"\x89PNG", "x")


def test_a_scorecard_in_words():
    assert headline(card()).startswith("75% of the attacked classes are fooled at 90% by at most 5 altered pixels")
    assert "by seed 100%, 50%" in headline(card())
    text = scorecard_markdown(card(name="my_net"))
    assert text.startswith("# Audit of my\\_net\n")
    assert "| any | 25.0 (4.6-69.9) | 75.0 (30.1-95.4) |" in text
    assert "| class 7 | 5 | 5 | - | 5 | - |" in text
    assert shares_table(card()).rows[0][0] == "black"


def test_the_page_is_whole_and_runs_no_name():
    shown = ShownImage(EVIL, np.zeros((8, 8, 1), np.uint8), "black", 1, 0.95)
    page = render_scorecard(card(), [shown])
    assert "<script" not in page
    assert "alert(1)" in page  # as text
    assert "data:image/png;base64," in page
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert "75.0 (30.1-95.4)" in page


def test_a_scorecard_holds_names_as_text():
    name = "\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}[x](https://example.org)\n# " + "x" * 100_000
    scorecard = card(name=name)
    shown = ShownImage(name, np.zeros((8, 8, 1), np.uint8), name, 1, 0.95)
    for text in (scorecard_markdown(scorecard), render_scorecard(scorecard, [shown])):
        assert all(line.isprintable() for line in text.split("\n"))
        assert "\\x1b" in text.replace("\\\\", "\\")
        assert "x" * 6000 not in text
    assert r"\[x\](https" in scorecard_markdown(scorecard)


def test_two_scorecards_beside_each_other():
    compared = compare_scorecards(card(), card({("gray", 5, 1, 3)}), ("a", "b"))
    by_place = {(row[0], row[1]): row for row in compared.rows}
    _, _, one, other, difference, p = by_place[5, ANY]
    assert (one.count, other.count, difference) == (3, 1, 0.5)
    assert p == pytest.approx(stats.fisher_exact([[3, 1], [1, 3]]).pvalue)
    assert by_place[5, "gray"][4:] == (0.0, 1.0)
    heading, *lines = comparison_csv(compared).splitlines()
    assert heading.startswith("k,background,share_a,low_a,high_a,count_a,total_a,share_b")
    assert lines[3].startswith("5,any,0.75,0.3")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"attack": {"kind": "map_elites", "max_evaluations": 10}}, "attack max_evaluations is 9 in A and 10 in B"),
        ({"standard": 2}, "version of the grid: 1 in A and 2 in B"),
        ({"threshold": 0.5}, "threshold: 0.9 in A and 0.5 in B"),
    ],
)
def test_audits_of_other_options_do_not_compare(grid, message):
    with pytest.raises(InputError, match=message):
        compare_scorecards(card(), card(**grid), ("a", "b"))
