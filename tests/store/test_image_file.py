"""The natural images in a stranger's run: what is not theirs is one error, before memory is spent on it."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sfi_ray.errors import InputError, StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.image_file import IMAGES, read_image_file

SHAPE = (3, 5, 4)  # channels, rows, columns


def encoded(height=5, width=4, mode="RGB", form="PNG"):
    stream = io.BytesIO()
    values = np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(values).convert(mode).save(stream, form)
    return stream.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def bomb():
    """A PNG of a few hundred bytes that says it has 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def write(path, *contents, **columns):
    images = [{"bytes": content, "path": f"file {number}"} for number, content in enumerate(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    values = {"image": pa.array(images, kind), "label": pa.array(range(len(images)), pa.int64()), **columns}
    pq.write_table(pa.table({name: value for name, value in values.items() if value is not None}), path / IMAGES)


def read(path, number=2):
    return read_image_file(RunFolder(str(path)), number, SHAPE)


def test_what_was_written_is_read(tmp_path):
    write(tmp_path, encoded(), encoded())
    first, second = read(tmp_path)
    assert first.pixels.shape == (5, 4, 3)
    assert (second.target_class, second.source) == (1, "file 1")
    assert first.pixels.ravel().tolist() == list(range(60))


FAULTS = {
    "fewer than the run has": ([encoded()], {}, "it claims 1 images"),
    "more than the run has": ([encoded()] * 3, {}, "it claims 3 images"),
    "another size": ([encoded(), encoded(height=6)], {}, "another size"),
    "no colour": ([encoded(), encoded(mode="L")], {}, "other channels"),
    "transparency": ([encoded(), encoded(mode="RGBA")], {}, "other channels"),
    "a palette": ([encoded(), encoded(mode="P")], {}, "other channels"),
    "billions of pixels": ([encoded(), bomb()], {}, ""),
    "another form": ([encoded(), encoded(form="BMP")], {}, "cannot identify"),
    "a text": ([encoded(), b"<svg onload=alert(1)>"], {}, "cannot identify"),
    "half of a PNG": ([encoded(), encoded()[:40]], {}, ""),
    "no bytes": ([encoded(), None], {}, ""),
    "no labels": ([encoded()] * 2, {"label": None}, "label"),
    "no images": ([encoded()] * 2, {"image": None}, "image"),
    "labels that are texts": ([encoded()] * 2, {"label": pa.array(["a", "b"])}, "invalid literal"),
}


@pytest.mark.parametrize(("contents", "columns", "reason"), FAULTS.values(), ids=FAULTS)
def test_what_is_no_image_of_the_run_is_one_line(tmp_path, contents, columns, reason):
    write(tmp_path, *contents, **columns)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"images\.parquet' is broken \(.*start over with --fresh") as caught:
            read(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" * 1000, b"\x00" * 100])
def test_what_is_no_parquet_file_is_one_line(tmp_path, content):
    (tmp_path / IMAGES).write_bytes(content)
    with pytest.raises(InputError, match=r"images\.parquet' is broken"):
        read(tmp_path)


def test_a_file_that_is_far_too_large_is_not_read(tmp_path):
    with (tmp_path / IMAGES).open("wb") as file:
        file.truncate(10 << 30)
    with pytest.raises((InputError, StorageError)):
        read(tmp_path)


def test_a_link_out_of_the_run_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    write(tmp_path, encoded(), encoded())
    (tmp_path / "run" / IMAGES).symlink_to(tmp_path / IMAGES)
    with pytest.raises((InputError, StorageError)):
        read(tmp_path / "run")
