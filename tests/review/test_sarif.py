"""SARIF of the scorecards made by hand in `test_gate.py`."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from sfi_ray.job import ClassifierSpec
from sfi_ray.review.gate import Limit
from sfi_ray.review.sarif import sarif_json, uri_of
from tests.review.test_gate import CELLS, scorecard


def closed(required=(), **properties):
    """The schema of an object that has no other keys than these."""
    return {"type": "object", "additionalProperties": False, "required": list(required), "properties": properties}


MESSAGE = closed(["text"], text={"type": "string"})
LEVEL = {"enum": ["none", "note", "warning", "error"]}
RULE = closed(
    ["id", "shortDescription", "fullDescription", "help"],  # all but the first: GitHub
    id={"type": "string"},
    name={"type": "string"},
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    defaultConfiguration=closed(level=LEVEL),
)
PLACE = closed(
    ["artifactLocation", "region"],
    artifactLocation=closed(["uri"], uri={"type": "string", "pattern": r"^[A-Za-z0-9._~:/@!$&'()*+,;=%-]+$"}),
    region=closed(["startLine"], startLine={"type": "integer", "minimum": 1}),
)
RESULT = closed(
    ["message", "ruleId", "locations"],  # all but the first: GitHub
    ruleId={"type": "string"},
    ruleIndex={"type": "integer", "minimum": 0},
    level=LEVEL,
    message=MESSAGE,
    locations={"type": "array", "minItems": 1, "items": closed(physicalLocation=PLACE)},
    partialFingerprints={"type": "object", "additionalProperties": {"type": "string"}},
    properties={"type": "object"},
)
INVOCATION = closed(
    ["executionSuccessful"],
    executionSuccessful={"type": "boolean"},
    toolExecutionNotifications={"type": "array", "items": closed(["message"], message=MESSAGE, level=LEVEL)},
)
DRIVER = closed(
    ["name"],
    name={"type": "string"},
    version={"type": "string"},
    informationUri={"type": "string", "pattern": "^https://"},
    rules={"type": "array", "items": RULE, "uniqueItems": True},
)
RUN = closed(
    ["tool", "results"],
    tool=closed(["driver"], driver=DRIVER),
    invocations={"type": "array", "items": INVOCATION},
    results={"type": "array", "items": RESULT},
)
SARIF = closed(["version", "runs"], version={"enum": ["2.1.0"]}, runs={"type": "array", "items": RUN})
SARIF["properties"]["$schema"] = {"type": "string", "pattern": "^https://"}
"""What the schema of SARIF 2.1.0, and GitHub beyond it, says of the keys that are used."""


def run_of(card, limit=None, uri="networks.py"):
    """The only run of a SARIF file, which must keep the schema."""
    log = json.loads(sarif_json(card, limit, uri))
    assert [error.message for error in Draft7Validator(SARIF).iter_errors(log)] == []
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    return run


def test_each_fooled_class_and_background_is_a_result_of_its_smallest_k():
    card = scorecard({("gray", 5, 0, 1), ("gray", 1, 1, 1), ("black", 5, 0, 0)})
    found = [(one["ruleId"], one["message"]["text"]) for one in run_of(card)["results"]]
    assert found == [
        (
            "sparse-fooling-image-k5",
            "net: black with 5 altered pixels is labelled as class 0 (cat), at 90% or more.",
        ),
        (
            "sparse-fooling-image-k1",
            "net: gray with 1 altered pixel is labelled as class 1 (dog), at 90% or more.",
        ),
    ]
    assert run_of(card)["invocations"] == [{"executionSuccessful": True}]
    assert run_of(scorecard(()))["results"] == []


@pytest.mark.parametrize(
    ("limit", "levels"),
    [
        (None, ["warning", "warning"]),
        (Limit(0.0, 5), ["error", "error"]),
        (Limit(0.5, 5), ["warning", "warning"]),
        (Limit(0.0, 1), ["note", "error"]),
        (Limit(0.25, 1), ["note", "warning"]),
    ],
)
def test_the_level_says_whether_a_result_counts_against_the_limit(limit, levels):
    card = scorecard({("gray", 1, 1, 1), ("black", 5, 0, 0)})
    assert [one["level"] for one in run_of(card, limit)["results"]] == levels


def test_a_result_is_the_same_alert_again_whatever_its_k_and_number():
    def identities(card):
        return [one["partialFingerprints"]["primaryLocationLineHash"] for one in run_of(card)["results"]]

    everything = identities(scorecard(set(CELLS)))
    assert len(set(everything)) == len(everything) == 4
    assert identities(scorecard({("gray", 5, 0, 1)})) == everything[-1:]


def test_failed_cells_make_a_run_that_was_not_successful():
    (invocation,) = run_of(scorecard((), failed={("black", 1, 0, 0)}))["invocations"]
    assert invocation["executionSuccessful"] is False
    (notice,) = invocation["toolExecutionNotifications"]
    assert notice["message"]["text"] == "1 of 16 cells failed; try them again with --retry-failed"


def test_a_result_points_to_the_file_of_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("networks.py", "nets/__init__.py", "nets/small one.py", "my model.pt2", "outside/w.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    job = "audits/a/audit.yaml"
    assert uri_of(ClassifierSpec(name="a", factory="networks:sound"), job) == "networks.py"
    assert uri_of(ClassifierSpec(name="a", predict="nets:f"), job) == "nets/__init__.py"
    assert uri_of(ClassifierSpec(name="a", export="my model.pt2"), job) == "my%20model.pt2"
    assert uri_of(ClassifierSpec(name="a", factory="installed.elsewhere:f"), job) == job
    assert uri_of(ClassifierSpec(name="mlp"), job) == job
    assert uri_of(ClassifierSpec(torchvision="resnet50", weights="DEFAULT"), job) == job
    assert uri_of(ClassifierSpec(name="mlp"), "s3://bucket/a/audit.yaml") == "s3://bucket/a/audit.yaml"
    weights = tmp_path / "outside" / "w.pt"
    monkeypatch.chdir(tmp_path / "nets")
    assert uri_of(ClassifierSpec(name="mlp", weights=str(weights)), job) == weights.as_uri()


@given(st.text(st.characters(codec=None), max_size=40), st.text(st.characters(codec=None), max_size=40))
def test_no_text_of_others_is_a_link_or_a_placeholder(model, name):
    for result in run_of(scorecard(set(CELLS), names=(name, "dog"), model=model))["results"]:
        text = re.sub(r"\\[\\\[\]]|\{\{|\}\}", "", result["message"]["text"])
        assert not re.search(r"[\[\]{}]", text)
        assert text.isprintable()
