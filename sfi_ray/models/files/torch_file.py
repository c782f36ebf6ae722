"""A file that ``torch.save`` wrote, in its present form (a zip archive) or its old one (pickles in a row), as data."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar

import torch
from torch import Tensor

from sfi_ray.models.files.bounded_reading import check_expansion, open_archive, read_member, size_of, tensor_of
from sfi_ray.models.files.plain_pickle import Made, Named, Stored, read_pickle

#: What reading a broken or hostile file raises.
FAULTS = (
    *(zipfile.BadZipFile, EOFError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError),
    RuntimeError,  # torch's; zipfile's of what it does not know
)

_DTYPES: Mapping[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a file describes it.

    Attributes:
        storage: Name of the bytes that it is part of.
        dtype: Type of its elements.
        offset: Elements before its first one.
        sizes: Its shape.
        strides: Elements from one to the next along each dimension.
    """

    storage: str
    dtype: torch.dtype
    offset: int
    sizes: list[int]
    strides: list[int]


class TorchFile:
    """A file of ``torch.save``.

    Args:
        stream: The file; it is open as long as tensors are read.

    Attributes:
        content: What was saved: plain data, with descriptions of all else.

    Raises:
        Exception: One of `FAULTS`: it is none, or not whole.
    """

    old_form: ClassVar[bytes] = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
    """How a file in the old form begins."""
    _most_bytes_of_pickle: ClassVar[int] = 2**26

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = size_of(stream)
        self._archive: zipfile.ZipFile | None = None
        self._places: dict[str, tuple[int, int]] = {}
        if stream.read(2) == b"PK":
            self.content = self._open_archive()
        else:
            stream.seek(0)
            self.content = self._open_old_form()

    def tensors(self, described: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Reads tensors by any name.

        Raises:
            Exception: One of `FAULTS`: they reach beyond their bytes, or claim more memory than the file has.
        """
        check_expansion(((one.sizes, one.dtype) for one in described.values()), self._size)
        raw = {storage: self._raw(storage) for storage in {one.storage for one in described.values()}}
        return {
            name: tensor_of(raw[one.storage], one.dtype, one.sizes, one.strides, one.offset, name)
            for name, one in described.items()
        }

    def _open_archive(self) -> Any:
        self._archive = open_archive(self._stream)
        names = self._archive.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if not pickles:
            raise ValueError("it has no data.pkl")
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in names and self._member("byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        return read_pickle(io.BytesIO(self._member("data.pkl", self._most_bytes_of_pickle)))

    def _open_old_form(self) -> Any:
        stored: list[Stored] = []
        for _ in range(3):  # a magic number, a version, and sizes of C types
            read_pickle(self._stream)
        content = read_pickle(self._stream, stored)
        dtypes = {storage: dtype for storage, dtype, _ in map(_storage, filter(_is_storage, stored))}
        for storage in read_pickle(self._stream):
            count = int.from_bytes(self._stream.read(8), "little")
            size = count * dtypes[str(storage)].itemsize
            begin = self._stream.tell()
            if begin + size > self._size:
                raise EOFError(f"{size:,} bytes at {begin:,} of {self._size:,}")
            self._places[str(storage)] = (begin, size)
            self._stream.seek(size, io.SEEK_CUR)
        return content

    def _member(self, name: str, most: int | None = None) -> bytes:
        assert self._archive is not None
        return read_member(self._archive, self._folder + name, most)

    def _raw(self, storage: str) -> bytearray:
        if self._archive:
            return bytearray(self._member(f"data/{storage}"))
        begin, size = self._places[storage]
        self._stream.seek(begin)
        return bytearray(self._stream.read(size))


def as_dictionary(value: Any) -> dict[Any, Any] | None:
    """Returns a dictionary, plain or ordered; None for anything else."""
    if isinstance(value, dict):
        return value
    if not isinstance(value, Made) or value.by not in ("collections.OrderedDict", "collections.defaultdict"):
        return None
    # Python 2 wrote ordered dictionaries as lists of pairs.
    pairs = value.args[0] if value.args and isinstance(value.args[0], list) else []
    return {key: item for key, item in pairs if isinstance(key, str)} | value.items


def as_tensor(value: Any) -> StoredTensor | None:
    """Returns what describes a plain tensor; None for anything else, such as a quantised or a sparse one.

    Raises:
        ValueError, TypeError, LookupError: It is described wrongly.
    """
    parameters = (
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_parameter_with_state",
        "torch.nn.parameter.Parameter",
    )
    tensors = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
    while isinstance(value, Made) and value.by in parameters:
        value = value.args[0]
    if isinstance(value, Made) and value.by == "torch._tensor._rebuild_from_type_v2":  # one with attributes
        by, _, args, _ = value.args
        value = Made(by.name, args) if isinstance(by, Named) else None
    if not isinstance(value, Made) or value.by not in tensors:
        return None
    stored, offset, sizes, strides = value.args[:4]
    views = as_dictionary(value.args[6]) if len(value.args) > 6 else None
    if views and any(views.values()):  # conjugated or negated where it lies
        return None
    storage, dtype, shift = _storage(stored)
    return StoredTensor(storage, dtype, offset + shift, sizes, strides)


def _storage(stored: Any) -> tuple[str, torch.dtype, int]:
    """Returns name, dtype and offset of what a pickle says of a storage."""
    if not _is_storage(stored):
        raise ValueError("a tensor without bytes")
    _, kind, storage, _, _, *view = stored.key
    shift = view[0][1] if view and isinstance(view[0], list) else 0
    return str(storage), _DTYPES[kind.name.rpartition(".")[2]], shift


def _is_storage(stored: Any) -> bool:
    # The old form keeps the source of modules in the same way.
    return isinstance(stored, Stored) and isinstance(stored.key, list) and stored.key[:1] == ["storage"]
