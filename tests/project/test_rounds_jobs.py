"""Every job of rounds that comes with the project can be started; whole rounds are run in tests/cluster."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.io import encode_png

from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.launch import checked_trials
from sfi_ray.job import KRange, RoundsJob, load_any

ROOT = Path(__file__).parents[2]
JOBS = [path for path in sorted((ROOT / "jobs").glob("*.yaml")) if isinstance(load_any(path), RoundsJob)]


@pytest.fixture(autouse=True)
def _data(tmp_path, monkeypatch):
    """Data sets of noise with the shapes of the real ones."""
    chance = np.random.default_rng(0)
    for name, shape in (("mnist", (1, 28, 28)), ("cifar10", (3, 32, 32))):
        folder = tmp_path / name
        folder.mkdir()
        images = [torch.from_numpy(chance.integers(0, 256, shape, dtype=np.uint8)) for _ in range(10)]
        column = [{"bytes": encode_png(image).numpy().tobytes(), "path": None} for image in images]
        table = pa.table({"image": column, "label": list(range(10))})
        table = table.replace_schema_metadata({"class_names": json.dumps([f"class {i}" for i in range(10)])})
        for split in ("train", "test"):
            pq.write_table(table, folder / f"{split}.parquet")
    monkeypatch.setenv("SFI_RAY_DATA", str(tmp_path))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_nothing_is_wrong_with_it(path):
    job = load_any(path)
    trials = checked_trials(job, Reporter())
    assert tuple(trials) == job.trial_names
    for trial in trials.values():
        assert sum(trial.rounds.parts(10)) == 10 * trial.rounds.per_class


def test_the_papers_rounds_have_its_numbers():
    job = load_any(ROOT / "jobs/ood_cifar10.yaml")
    assert job.k == KRange(low=1, high=100)
    assert job.rounds.parts(10) == (5000, 1000)
    assert (job.attack.population_size, job.attack.generations, job.attack.stop_confidence) == (500, 3000, 0.9)
    assert (job.rounds.number, job.backgrounds, job.rounds.final_backgrounds) == (5, ("black",), ("white",))
