from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfi_ray.report.site.pack import Pack
from sfi_ray.text import printable

TYPES = {"Uint8Array": "u1", "Uint16Array": "<u2", "Uint32Array": "<u4", "Int32Array": "<i4"}
TYPES |= {"Float32Array": "<f4", "Float64Array": "<f8"}


def unpack(text: str) -> Any:
    body = gzip.decompress(base64.b64decode(text))
    (length,) = struct.unpack_from("<Q", body)

    def revive(value: dict[str, Any]) -> Any:
        if "$" not in value:
            return value
        offset, kind, size = value["$"]
        dtype = np.dtype(TYPES[kind])
        assert (8 + length + offset) % dtype.itemsize == 0  # a typed array has to begin there
        return np.frombuffer(body, dtype, size, 8 + length + offset)

    return json.loads(body[8 : 8 + length], object_hook=revive)


@given(st.lists(st.lists(st.integers(-(2**31), 2**40), max_size=5), max_size=5), st.text())
def test_what_is_packed_is_what_is_unpacked(columns: list[list[int]], name: str) -> None:
    pack = Pack()
    text = pack.text({"name": name, "columns": [pack.add(np.array(column, np.int64)) for column in columns]})
    got = unpack(text)
    assert got["name"] == printable(name)
    assert [column.tolist() for column in got["columns"]] == columns
    assert not set(text) & set("<>&\"'")


@pytest.mark.parametrize(("highest", "kind"), [(255, "Uint8Array"), (256, "Uint16Array"), (65536, "Uint32Array")])
def test_a_column_takes_the_smallest_type(highest: int, kind: str) -> None:
    assert Pack().add(np.array([0, highest]))["$"][1] == kind


def test_confidences_keep_float32_and_nan() -> None:
    pack = Pack()
    values = np.array([0.1, np.nan, 1.0])
    np.testing.assert_array_equal(unpack(pack.text(pack.add(values))), values.astype(np.float32))
