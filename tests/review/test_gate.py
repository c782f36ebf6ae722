"""JUnit XML and badges of scorecards made by hand: two classes, two backgrounds, two seeds, and k of 1 and 5."""

import itertools
import json
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.review.gate import Limit, badge_json, failed_cells, junit_xml
from sfi_ray.review.scorecard import ANY, Audited, Costs, FooledCells, GridFacts, Scorecard

GRID = GridFacts(
    standard=1,
    is_standard=False,
    backgrounds=("black", "gray"),
    ks=(1, 5),
    seeds=2,
    classes=(0, 1),
    threshold=0.9,
    attack={"kind": "map_elites"},
)
CELLS = list(itertools.product(GRID.backgrounds, GRID.ks, range(GRID.seeds), GRID.classes))


def scorecard(fooled, failed=(), names=("cat", "dog"), model="net"):
    """A scorecard; `fooled` and `failed` hold (background, k, seed, class)."""
    keys = ("background", "k", "replicate", "target_class")
    rows = [
        dict(zip(keys, cell, strict=True))
        | {"fooled": cell in fooled, "confidence": 0.5, "stop_reason": "failed" if cell in failed else "budget"}
        for cell in CELLS
    ]
    cells = FooledCells(rows, GRID)
    return Scorecard(
        model=Audited(
            name=model,
            fingerprint="f",
            source=None,
            dataset="animals",
            input_shape=(1, 8, 8),
            num_classes=2,
            accuracy=None,
            num_natural=0,
        ),
        grid=GRID,
        shares=tuple(cells.shares()),
        classes=tuple(cells.classes(names)),
        backgrounds=(),
        detectors=(),
        detectors_missing="none",
        costs=Costs(cells=len(CELLS), failed=len(failed), evaluations=9, backward_passes=0, verifications=0),
        versions={},
    )


def outcomes(card, limit):
    """The outcome of each test case by its name, and the counts that the suite states."""
    suite = ElementTree.fromstring(junit_xml(card, limit)).find("testsuite")
    found = {}
    for case in suite.iter("testcase"):
        kinds = [kind for kind in ("error", "failure", "skipped") if case.find(kind) is not None]
        assert len(kinds) <= 1
        found[case.get("name")] = kinds[0] if kinds else "passed"
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {
        "tests": len(found),
        "failures": sum(kind == "failure" for kind in found.values()),
        "errors": sum(kind == "error" for kind in found.values()),
        "skipped": sum(kind == "skipped" for kind in found.values()),
    }
    return found


def test_a_test_case_fails_where_more_classes_are_fooled():
    card = scorecard({("gray", 5, 0, 1), ("gray", 5, 1, 1)})  # half of the cases
    names = {f"k = {k} on {where}": "passed" for k in (1, 5) for where in ("any background", "black", "gray")}
    names["every cell has a result"] = "passed"
    assert outcomes(card, None) == names
    assert outcomes(card, Limit(0.5, 5)) == names
    over = {"k = 5 on any background": "failure", "k = 5 on gray": "failure"}
    assert outcomes(card, Limit(0.4, 5)) == names | over
    skipped = {name: "skipped" for name in names if name.startswith("k = 5")}
    assert outcomes(card, Limit(0.4, 1)) == names | skipped


def test_a_failure_names_share_limit_and_classes():
    root = ElementTree.fromstring(junit_xml(scorecard({("gray", 1, 0, 1)}), Limit(0.1, 5)))
    (failure,) = root.findall(".//testcase[@name='k = 5 on gray']/failure")
    assert failure.get("message") == "25.0% of the classes are fooled with k = 5 on gray; the limit is 10.0%"
    assert failure.text == "class 1 (dog): k = 1"


def test_failed_cells_pass_no_gate():
    card = scorecard((), failed={("black", 1, 0, 0)})
    assert failed_cells(card) == "1 of 16 cells failed"
    assert outcomes(card, Limit(1, 5))["every cell has a result"] == "error"
    badge = json.loads(badge_json(card, Limit(1, 5)))
    assert (badge["message"], badge["color"]) == ("1 of 16 cells failed", "red")


@pytest.mark.parametrize(("limit", "colour"), [(0.25, "brightgreen"), (0.2, "red")])
def test_the_badge_shows_the_share_that_the_limit_is_about(limit, colour):
    badge = json.loads(badge_json(scorecard({("black", 1, 0, 0)}), Limit(limit, 1)))
    assert badge == {
        "schemaVersion": 1,
        "label": "sparse fooling images",
        "message": "25% of classes fooled, k = 1",
        "color": colour,
    }


@given(st.sets(st.sampled_from(CELLS)), st.floats(0, 1), st.sampled_from(GRID.ks))
def test_a_test_case_fails_exactly_where_the_audit_exceeds_its_limit(fooled, share, k):
    card, limit = scorecard(fooled), Limit(share, k)
    cases = {(seed, one) for _, with_k, seed, one in fooled if with_k <= k}
    is_over = len(cases) / 4 > share
    assert (limit.excess(card.share(k, ANY)) is not None) == is_over
    assert ("failure" in outcomes(card, limit).values()) == is_over


@given(st.text(st.characters(codec=None), max_size=40), st.text(st.characters(codec=None), max_size=40))
def test_any_text_of_others_gives_xml_that_reads(model, name):
    card = scorecard(set(CELLS), names=(name, "dog"), model=model)
    root = ElementTree.fromstring(junit_xml(card, Limit(0, 5)))
    assert len(root.findall(".//failure")) == 6
    assert all(child.tag == "testcase" for child in root.find("testsuite") if child.tag != "properties")
