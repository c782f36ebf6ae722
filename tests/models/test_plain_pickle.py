"""A pickle is read as data: what plain data it holds comes back, and nothing that it names is looked up."""

import argparse
import collections
import contextlib
import io
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.models.files.plain_pickle import Made, Named, read_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=20,
)
FAULTS = (ValueError, LookupError, TypeError)


class Opening:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def read(content):
    return read_pickle(io.BytesIO(content))


@given(value=PLAIN, protocol=st.integers(3, 5))  # before, bytes were made by a call
def test_plain_data_comes_back_from_any_protocol(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@given(value=PLAIN.filter(lambda value: not isinstance(value, bytes)))
def test_several_pickles_are_read_one_after_another(value):
    stream = io.BytesIO(pickle.dumps(value) + pickle.dumps("next"))
    assert read_pickle(stream) == value
    assert read_pickle(stream) == "next"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_sets_and_tuples_are_lists(protocol):
    # The old protocols make a set by a call.
    assert read(pickle.dumps(((1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ()), protocol)) == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 3, 4],
        [],
    ]
    if protocol >= 4:
        assert read(pickle.dumps({7}, protocol)) == [7]


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
@pytest.mark.parametrize(
    ("value", "name"),
    [
        (argparse.Namespace(lr=0.1), "argparse.Namespace"),
        (np.float64(3), "scalar"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (complex(1, 2), "complex"),
    ],
)
def test_what_would_be_made_is_described(value, name, protocol):
    made = read(pickle.dumps({"value": value}, protocol))["value"]
    # What has no operation of its own in the oldest protocols is made by copyreg of the class that it is given.
    named = [made.by, *(given.name for given in made.args if isinstance(given, Named))]
    assert isinstance(made, Made)
    assert any(each.endswith(name) for each in named)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_is_never_run(protocol, tmp_path):
    made = read(pickle.dumps([Opening(tmp_path / "trap")], protocol))[0]
    assert made.by.endswith(".open")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02.",
        b"\x80\x02R.",
        b"\x80\x02t.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01b.",
        b"\x80\x02\x82\x01.",
        b"\x80\x05\x97.",
        b"\x80\x04X\xff\xff\xff\x7fx.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x00x.",
        b"\xff" * 50,
        b"I" + b"9" * 10_000 + b"\n.",
    ],
)
def test_what_is_no_pickle_is_a_plain_fault(content):
    with pytest.raises(FAULTS):
        read(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_a_plain_fault(content):
    with contextlib.suppress(FAULTS):
        read(b"\x80\x04" + content)


def test_small_pickles_take_neither_memory_nor_time():
    # A place of the memo that takes gigabytes as an index; bytes by number; nesting that no recursion would survive.
    assert read(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1
    assert read(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R.").by == "builtins.bytearray"
    assert isinstance(read(b"\x80\x02)" + b"\x85" * 100_000 + b"."), list)


def test_endless_pickles_are_given_up():
    with pytest.raises(ValueError, match="more than 1,000 steps"):
        read_pickle(io.BytesIO(b"\x80\x02" + b"K\x010" * 1000 + b"K\x01."), most_steps=1000)
