"""A CIFAR-10 of noise, for tests that need its names and its shape alone."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def write_noise(folder, labels=()):
    """Writes both splits as parquet files; `labels` gives rows another label than their number's last digit."""
    folder.mkdir(parents=True)
    chance = np.random.default_rng(0)
    rows = []
    for row in range(120):
        file = io.BytesIO()
        Image.fromarray(chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": dict(labels).get(row, row % 10)})
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"class_names": json.dumps(CIFAR10)},
    )
    for split in ("train", "test"):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{split}.parquet")
