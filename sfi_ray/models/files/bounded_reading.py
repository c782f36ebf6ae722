"""Reads archives and tensors of untrusted files in no more memory than their content takes."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterable, Sequence
from typing import BinaryIO

import torch
from torch import Tensor


def size_of(stream: BinaryIO) -> int:
    """Returns the number of bytes of a stream, and goes to its beginning."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    return size


def open_archive(stream: BinaryIO, most_contents: int = 2**23) -> zipfile.ZipFile:
    """Opens a zip archive as torch writes it: at the end of the file, and without a comment.

    Raises:
        zipfile.BadZipFile: It is none, not whole, or has a table of contents of over `most_contents` bytes. Some 80,000
            members have the default.
    """
    size = size_of(stream)
    # The record at the end of an archive, and that of a large one with its locator before it.
    end_size, long_end_size = 22, 56 + 20
    stream.seek(max(0, size - end_size - long_end_size))
    tail = stream.read()
    end, long_end = tail[-end_size:], tail[-end_size - long_end_size : -end_size]
    if len(end) < end_size or not end.startswith(b"PK\x05\x06"):
        raise zipfile.BadZipFile("the end of a zip archive is not there")
    contents = int.from_bytes(end[12:16], "little")
    if long_end.startswith(b"PK\x06\x06"):
        contents = int.from_bytes(long_end[40:48], "little")
    if contents > most_contents:
        raise zipfile.BadZipFile(f"a table of contents of {contents:,} bytes, over {most_contents:,}")
    stream.seek(0)
    return zipfile.ZipFile(stream)


def read_member(archive: zipfile.ZipFile, name: str, most: int | None = None) -> bytes:
    """Reads a member that is not compressed, so that it is no larger than its archive.

    Raises:
        zipfile.BadZipFile: It is compressed, has more bytes than `most`, or is broken.
        KeyError: There is no such member.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise zipfile.BadZipFile(f"{name} is compressed, and torch compresses nothing")
    if most is not None and info.file_size > most:
        raise zipfile.BadZipFile(f"{name} has {info.file_size:,} bytes, over {most:,}")
    return archive.read(info)


def check_expansion(tensors: Iterable[tuple[Sequence[int], torch.dtype]], file_size: int) -> None:
    """Checks that tensors, given by sizes and dtype, do not claim much more memory than the bytes of their file.

    Raises:
        ValueError: They do, or a size is none.
    """
    most_expansion = 16  # layers may share tensors, and half precision becomes float32
    always_allowed = 2**24
    claimed = 0
    for sizes, dtype in tensors:
        if not _are_numbers(sizes):
            raise ValueError(f"a tensor has the sizes {list(sizes)}")
        claimed += math.prod(sizes) * max(dtype.itemsize, torch.float32.itemsize)
    if claimed > most_expansion * file_size + always_allowed:
        raise ValueError(f"its tensors claim {claimed:,} bytes, and the file has {file_size:,}")


def tensor_of(
    raw: bytearray, dtype: torch.dtype, sizes: Sequence[int], strides: Sequence[int], offset: int, name: str
) -> Tensor:
    """Makes a tensor from a copy of raw bytes; strides and offset count elements.

    Raises:
        ValueError: It would reach beyond the bytes; the message calls it `name`.
    """
    if not _are_numbers([*sizes, *strides, offset]) or len(sizes) != len(strides):
        raise ValueError(f"{name} has the sizes {list(sizes)}, the strides {list(strides)} and the offset {offset}")
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=dtype)
    end = (1 + offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))) * dtype.itemsize
    if end > len(raw):
        raise ValueError(f"{name} reaches to byte {end:,} of {len(raw):,}")
    flat = torch.frombuffer(raw, dtype=dtype, count=len(raw) // dtype.itemsize)
    if dtype == torch.bool:  # a truth value of another byte than 0 and 1 is neither
        flat = flat.view(torch.uint8) != 0
    return flat.as_strided(sizes, strides, offset).clone()


def _are_numbers(values: Sequence[object]) -> bool:
    """Whether all values may be sizes, strides or offsets of a tensor that fits into a memory."""
    return all(type(value) is int and 0 <= value < 2**48 for value in values)
