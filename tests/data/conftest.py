"""Small parquet files for the tests of the data layer."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SFI_RAY_DATA", raising=False)


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Encodes an image of one value, a seeded random one, or a given array."""

    def encode_image(
        mode: str = "L", size: tuple[int, int] = (4, 4), value: int | None = None, image_format: str = "PNG"
    ) -> bytes:
        width, height = size
        if value is None:
            pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
            image = Image.fromarray(pixels).convert(mode)
        else:
            image = Image.new("L", size, value).convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, image_format)
        return buffer.getvalue()

    return encode_image


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file in the Hugging Face convention; class names None leaves them out."""

    def write(
        name: str,
        images: Sequence[bytes | None],
        labels: Sequence[int | None] | pa.Array,
        *,
        class_names: Any = ("a", "b"),
        metadata: dict[str, str] | None = None,
        as_struct: bool = True,
        row_group_size: int | None = None,
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        column = pa.array(images, pa.binary())
        if as_struct:
            column = pa.StructArray.from_arrays([column, pa.nulls(len(images), pa.string())], names=["bytes", "path"])
        if not isinstance(labels, pa.Array):
            labels = pa.array(labels, pa.int64())
        keys = dict(metadata or {})
        if class_names is not None:
            keys["class_names"] = json.dumps(class_names)
        table = pa.table({"image": column, "label": labels}).replace_schema_metadata(keys)
        pq.write_table(table, path, row_group_size=row_group_size)
        return path

    return write
