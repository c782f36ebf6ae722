import pytest

from sfi_ray.location import around, base_name, is_same, parted, within


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


def test_one_folder_has_many_names():
    run = "s3://bucket/runs/a?endpoint_override=http://127.0.0.1:9000&region=x"
    for same in (
        run,
        "s3://bucket/runs/a",
        "s3://bucket/runs/a/",
        "s3://bucket/runs/a/?region=x&endpoint_override=http%3A%2F%2F127.0.0.1%3A9000",
    ):
        assert is_same(run, same)
        assert is_same(same, run)
    for other in (
        "s3://bucket/runs",
        "s3://bucket/runs/b?region=x",
        "s3://bucket/runs/a?region=y",
        "gs://bucket/runs/a",
    ):
        assert not is_same(run, other)
    assert is_same("runs/a/", "runs/a")
    assert not is_same("runs/a?b", "runs/a"), "a question mark in a path is none of a URI"
