import pytest

from sfi_ray.location import around, base_name, parted, within


@pytest.mark.parametrize(
    ("location", "name", "expected"),
    [
        ("runs", "a", "runs/a"),
        ("runs/", "a/b", "runs/a/b"),
        ("/", "a", "/a"),
        ("what?", "a", "what?/a"),  # a local path may have a question mark
        ("s3://bucket/runs", "a", "s3://bucket/runs/a"),
        ("s3://bucket?region=eu", "a", "s3://bucket/a?region=eu"),
        ("s3://bucket/runs/?endpoint_override=http://h:1/", "a", "s3://bucket/runs/a?endpoint_override=http://h:1/"),
    ],
)
def test_a_name_goes_before_the_options(location, name, expected):
    assert within(location, name) == expected
    assert base_name(expected) == name.rpartition("/")[2]
    assert within(around(expected, levels=name.count("/") + 1), name) == expected


def test_a_location_without_options_is_a_place():
    assert parted("s3://bucket/a") == ("s3://bucket/a", "")
    assert parted("s3://bucket/a?b=c?d") == ("s3://bucket/a", "?b=c?d")
    assert around("s3://bucket/rounds/trial/round_0/", 2) == "s3://bucket/rounds"
