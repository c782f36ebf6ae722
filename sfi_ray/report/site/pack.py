"""Packs plain data and arrays into one text for a page: JSON and raw columns, compressed, in base64."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sfi_ray.text import MOST_RESULT, printable


class Pack:
    """Collects arrays; plain data refers to them by the references that `add` returns."""

    _alignment: ClassVar[int] = 8
    """Bytes of the largest number; a typed array must begin at a multiple of them."""
    _types: ClassVar[dict[str, str]] = {
        "u1": "Uint8Array",
        "u2": "Uint16Array",
        "u4": "Uint32Array",
        "i4": "Int32Array",
        "f4": "Float32Array",
        "f8": "Float64Array",
    }

    def __init__(self) -> None:
        self._columns: list[bytes] = []
        self._size = 0

    def add(self, array: NDArray[Any]) -> dict[str, list[Any]]:
        """Adds an array, flattened, and returns the reference that the page turns back into a typed array.

        Fractions become float32, and whole numbers beyond 32 bits float64.
        """
        narrow = _narrow(array)
        content = narrow.tobytes()
        reference = {"$": [self._size, self._types[narrow.dtype.str[1:]], narrow.size]}
        padding = -len(content) % self._alignment
        self._columns += [content, b"\0" * padding]
        self._size += len(content) + padding
        return reference

    def text(self, facts: Any) -> str:
        """Returns everything as ASCII without characters that have a meaning in HTML; all texts are printable."""
        head = json.dumps(_printable(facts), separators=(",", ":"), allow_nan=False).encode()
        head += b" " * (-len(head) % self._alignment)
        body = b"".join([struct.pack("<Q", len(head)), head, *self._columns])
        return base64.b64encode(gzip.compress(body, compresslevel=6, mtime=0)).decode()


def _printable(facts: Any) -> Any:
    if isinstance(facts, str):
        return printable(facts, MOST_RESULT)
    if isinstance(facts, dict):
        return {name: _printable(value) for name, value in facts.items()}
    return [_printable(value) for value in facts] if isinstance(facts, list | tuple) else facts


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Returns an array in the smallest little-endian type that holds its numbers."""
    flat = np.ascontiguousarray(array).ravel()
    if flat.dtype.kind == "f":
        return flat.astype("<f4")
    flat = flat.astype(np.int64)
    low, high = int(flat.min(initial=0)), int(flat.max(initial=0))
    for code in ("u1", "u2", "u4") if low >= 0 else ("i4",):
        if low >= np.iinfo(code).min and high <= np.iinfo(code).max:
            return flat.astype("<" + code)
    return flat.astype("<f8")
