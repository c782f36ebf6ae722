"""Factories of findings and of run folders, so that a test names only what it is about."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sfi_ray.store.schema import FINDINGS

Make = Callable[..., pa.Table]


def make_findings(*rows: dict[str, Any]) -> pa.Table:
    """Fills in what a row does not say; `confidence=None` makes it a failed one."""
    findings = []
    for index, row in enumerate(rows):
        confidence = row.get("confidence", 0.5)
        defaults = {
            "run": "r",
            "cell_id": f"{index:032x}",
            "cell_index": index,
            "dataset": "mnist",
            "classifier": "cnn",
            "classifier_fingerprint": "f",
            "background": "black",
            "background_value": [0],
            "target_class": 0,
            "target_name": f"class {row.get('target_class', 0)}",
            "k": 5,
            "replicate": 0,
            "seed": 1,
            "attack": "evolution",
            "attack_settings": "{}",
            "fooled": confidence is not None and confidence >= 0.9,
            "confidence": 0.5,
            "background_confidence": None if confidence is None else 0.0,
            "pixels": None if confidence is None else [],
            "height": 4,
            "width": 4,
            "channels": 1,
            "stop_reason": "failed" if confidence is None else "fooled",
            "evaluations": 0,
            "error": "it broke" if confidence is None else None,
        }
        findings.append({**dict.fromkeys(FINDINGS.names), **defaults, **row})
    return pa.Table.from_pylist(findings, schema=FINDINGS)


def make_grid(backgrounds: dict[str, list[int]], num_classes: int, **common: Any) -> pa.Table:
    """Makes one finding for each background and class, with confidences that fall by class."""
    places = itertools.product(backgrounds.items(), range(num_classes))
    return make_findings(
        *(
            {
                "background": name,
                "background_value": value,
                "target_class": target_class,
                "channels": len(value),
                "confidence": 1 - target_class / num_classes,
                **common,
            }
            for (name, value), target_class in places
        )
    )


def write_run(folder: Path, *parts: pa.Table, name: str = "run", num_cells: int | None = None, **facts: Any) -> Path:
    """Writes a run of the given part files, and a record that its rows belong to; `facts` go into it."""
    rows = [row for part in parts for row in part.select(["classifier", "background", "k"]).to_pylist()]
    first = {name: part[name][0].as_py() for part in parts[:1] if len(part) for name in ("dataset", "attack")}
    record = {
        "job": {
            "name": name,
            "backgrounds": sorted({row["background"] for row in rows}),
            "k": sorted({row["k"] for row in rows}),
            "replicates": 1,
            "seed": 0,
            "attack": {"kind": first.get("attack", "evolution")},
            "verification": {"threshold": 0.9},
        },
        "dataset": first.get("dataset", "mnist"),
        "input_shape": [1, 4, 4],
        "class_names": [f"class {number}" for number in range(10)],
        "classifiers": [{"name": name} for name in sorted({row["classifier"] for row in rows})],
        "device": "cpu",
        "num_cells": len(rows) if num_cells is None else num_cells,
        "versions": {},
        **facts,
    }
    (folder / "results").mkdir(parents=True)
    (folder / "job.yaml").write_text(yaml.safe_dump(record))
    for number, part in enumerate(parts):
        pq.write_table(part, folder / "results" / f"part-{number:012d}.parquet")
    return folder


def many_findings(num_classes: int, num_cells: int, *, size: int = 32, k: int = 5) -> pa.Table:
    """Makes rows of six backgrounds and some classifiers in columns, so that a hundred thousand take no time."""
    random = np.random.default_rng(0)
    index = np.arange(num_cells)
    backgrounds = {"black": (0, 0, 0), "gray": (128,) * 3, "white": (255,) * 3}
    backgrounds |= {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
    which = index // num_classes % 6
    confidence = random.beta(0.6, 0.3, num_cells)
    points = random.integers(0, size, (num_cells * k, 2))
    values = random.integers(0, 256, num_cells * k * 3)
    pixels = pa.StructArray.from_arrays(
        [
            pa.array(points[:, 0], pa.int32()),
            pa.array(points[:, 1], pa.int32()),
            pa.ListArray.from_arrays(np.arange(0, len(values) + 1, 3, dtype=np.int32), pa.array(values, pa.uint8())),
        ],
        names=["row", "col", "value"],
    )
    trace = pa.StructArray.from_arrays(
        [
            pa.array(np.tile([100, 800, 5000], num_cells), pa.int64()),
            pa.array(np.outer(confidence, [0.2, 0.6, 1]).ravel(), pa.float32()),
        ],
        names=["evaluations", "confidence"],
    )
    columns: dict[str, Any] = {
        "cell_id": [f"{number * 2654435761 % 2**32:08x}{number:024x}" for number in range(num_cells)],
        "cell_index": index,
        "dataset": ["cifar10"] * num_cells,
        "classifier": [f"network {number}" for number in (index // (6 * num_classes) % 3).tolist()],
        "background": [list(backgrounds)[number] for number in which.tolist()],
        "background_value": [list(backgrounds.values())[number] for number in which.tolist()],
        "target_class": index % num_classes,
        "target_name": [f"class {number}" for number in (index % num_classes).tolist()],
        "k": [k] * num_cells,
        "replicate": index // (18 * num_classes),
        "attack": ["de"] * num_cells,
        "fooled": confidence >= 0.9,
        "confidence": confidence,
        "background_confidence": [0.01] * num_cells,
        "predicted_class": index % num_classes,
        "predicted_confidence": confidence,
        "pixels": pa.ListArray.from_arrays(np.arange(0, num_cells * k + 1, k, dtype=np.int32), pixels),
        "num_altered": [k] * num_cells,
        **{name: [size] * num_cells for name in ("height", "width")},
        "channels": [3] * num_cells,
        "evaluations": [5000] * num_cells,
        "backward_passes": [0] * num_cells,
        "stop_reason": ["budget"] * num_cells,
        "trace": pa.ListArray.from_arrays(np.arange(0, num_cells * 3 + 1, 3, dtype=np.int32), trace),
        "seconds": [0.25] * num_cells,
    }
    filled = {f.name: columns.get(f.name, pa.nulls(num_cells, f.type)) for f in FINDINGS}
    return pa.table({n: c if isinstance(c, pa.Array) else pa.array(c) for n, c in filled.items()}).cast(FINDINGS)


@pytest.fixture(name="make_findings", scope="session")
def _make_findings() -> Make:
    return make_findings


@pytest.fixture(name="make_grid")
def _make_grid() -> Make:
    return make_grid


@pytest.fixture(name="write_run", scope="session")
def _write_run() -> Callable[..., Path]:
    return write_run


@pytest.fixture(name="many_findings", scope="session")
def _many_findings() -> Make:
    return many_findings
