from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from sfi_ray.data import DatasetSpec


class Job(BaseModel):
    dataset: DatasetSpec


def test_plain_string_is_a_name() -> None:
    assert Job.model_validate({"dataset": "digits"}).dataset == DatasetSpec(name="digits")


def test_lists_of_a_yaml_file_become_tuples_and_the_spec_is_hashable() -> None:
    spec = DatasetSpec.model_validate({"name": "toy", "shape": [3, 8, 9], "class_names": ["a", "b"]})
    assert spec.shape == (3, 8, 9)
    assert spec.class_names == ("a", "b")
    assert hash(spec) == hash(spec.model_copy())


def test_json_round_trip_keeps_the_spec() -> None:
    spec = DatasetSpec(name="toy", shape=(1, 2, 3), class_names=("a", "b"))
    assert DatasetSpec.model_validate_json(spec.model_dump_json()) == spec


def test_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DatasetSpec(name="digits").name = "mnist"


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in DatasetSpec.model_fields.values())


def test_json_schema_allows_a_string_and_a_mapping() -> None:
    schema = Job.model_json_schema()["$defs"]["DatasetSpec"]
    assert [choice["type"] for choice in schema["anyOf"]] == ["string", "object"]
    assert schema["anyOf"][1]["properties"]["shape"]["anyOf"][0]["prefixItems"][0]["maximum"] == 16


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "at least 1 character"),
        ({"name": ""}, "at least 1 character"),
        ({"name": "x", "path": ""}, "at least 1 character"),
        ({"name": "x", "folder": "y"}, "folder"),
        ({"name": "x", "shape": (1, 8, 8)}, "`shape` needs `class_names`"),
        ({"name": "x", "class_names": ("a", "b")}, "`class_names` needs `shape`"),
        ({"name": "x", "shape": (1, 8, 8), "class_names": ("a", "b"), "path": "y"}, "`path` goes without"),
        ({"name": "x", "shape": (17, 8, 8), "class_names": ("a", "b")}, "less than or equal to 16"),
        ({"name": "x", "shape": (1, 0, 8), "class_names": ("a", "b")}, "greater than or equal to 1"),
        ({"name": "x", "shape": (1, 8, -1), "class_names": ("a", "b")}, "greater than or equal to 1"),
        ({"name": "x", "shape": (8, 8), "class_names": ("a", "b")}, "shape"),
        ({"name": "x", "shape": (1, 8, 8), "class_names": ("a",)}, "at least 2 names, not 1"),
        ({"name": "x", "shape": (1, 8, 8), "class_names": ("a", "b", "a")}, "'a' twice"),
    ],
)
def test_wrong_spec_is_refused_with_the_reason(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSpec.model_validate(given)
