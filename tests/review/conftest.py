"""Small finished runs, and what it takes to tamper with a copy of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfi_ray import Run, launch
from sfi_ray.job import Job
from sfi_ray.store.schema import FINDINGS

DE = {"kind": "de", "population_size": 10, "generations": 3}
INVERSION = {"kind": "inversion", "steps": 10, "lambda_sparse": 1e-3}


def make_job(output: Path, **changes: Any) -> Job:
    values = {
        "name": "small",
        "dataset": "digits",
        "classifiers": [{"name": "mlp", "training": {"epochs": 2}}],
        "backgrounds": ["black", "gray"],
        "k": [1, 3],
        "target_classes": [0, 3, 7],
        "attack": DE,
        "cluster": {"flush_seconds": 0, "cells_per_shard": 4},
        "output": str(output),
        **changes,
    }
    return Job.model_validate(values)


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Launches a job in this process, once for each set of changes; what it returns is not to be changed."""
    known: dict[str, Run] = {}

    def launch_once(**changes: Any) -> Run:
        key = repr(changes)
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SFI_RAY_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
                known[key] = launch(make_job(tmp_path_factory.mktemp("review"), **changes), in_process=True)
        return known[key]

    return launch_once


@pytest.fixture
def run(launched: Callable[..., Run], tmp_path: Path) -> Run:
    """A finished run of twelve cells in several part files, which may be changed."""
    return copied(launched(), tmp_path)


@pytest.fixture
def inverted(launched: Callable[..., Run], tmp_path: Path) -> Run:
    """A finished run that imitates natural images, likewise."""
    changes = {"attack": INVERSION, "k": None, "backgrounds": ["black"], "images": {"per_class": 2}}
    return copied(launched(**changes), tmp_path)


def copied(run: Run, folder: Path) -> Run:
    return Run(shutil.copytree(run.folder.location, folder / "run"))


def parts(run: Run) -> list[Path]:
    return sorted(Path(run.folder.location, "results").glob("*.parquet"))


def change_row(run: Run, cell_index: int, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the row of a cell in its part file."""
    for path in parts(run):
        rows = pq.read_table(path).to_pylist()
        mine = [row for row in rows if row["cell_index"] == cell_index]
        if mine:
            change(mine[0])
            pq.write_table(pa.Table.from_pylist(rows, schema=FINDINGS), path)
