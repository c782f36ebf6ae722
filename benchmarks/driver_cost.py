"""What scheduling costs: planning a million cells, resuming against them, compacting, and driving trivial cells.

    uv run benchmarks/driver_cost.py [--trivial-cells N] [--actors N]

Trivial cells are searched by one generation of four candidates through a linear classifier on 4x4 images, so that
almost all of the time is the driver's, the actors' and the data set's. The same cells are searched in this process and
over Ray in one run; Ray's start is not counted, the start of its actors is. The driver's own time is that of its
process on a CPU, from the first check to the reports.
"""

import argparse
import itertools
import resource
import tempfile
import time
import tracemalloc

import pyarrow as pa
import torch
from report import write_report
from torch import nn

from sfi_ray import Classifier, Job, launch
from sfi_ray.cluster.ray.session import ray_session
from sfi_ray.cluster.work_queue import WorkQueue
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.store.compaction import compact
from sfi_ray.store.finished import FinishedCells
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import PartWriter
from sfi_ray.store.schema import Provenance
from sfi_ray.types import Background, Finding, StopReason

MILLION = 1_000_000


def large_grid():
    return Grid(
        classifiers=(GridClassifier("a", "a"), GridClassifier("b", "b")),
        backgrounds=tuple(Background(name, (i,)) for i, name in enumerate("vwxyz")),
        target_classes=tuple((i, str(i)) for i in range(1000)),
        ks=(1, 5),
        replicates=50,
        seed=0,
        method={"attack": {"kind": "de"}},
    )


def timed(what, function, cells):
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    started = time.perf_counter()
    function()
    seconds = time.perf_counter() - started
    return row(what, cells, seconds, f"{peak / 2**20:.1f} of Python")


def row(what, cells, seconds, memory):
    return {
        "what": what,
        "cells": cells,
        "seconds": f"{seconds:.2f}",
        "microseconds a cell": f"{seconds / cells * 1e6:.2f}",
        "peak memory, MiB": memory,
    }


def process_memory():
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} of the process"


def drain(grid, finished):
    work_queue = WorkQueue(grid, finished, 1)
    while work_queue.take(None, lambda _: 1000) is not None:
        pass


def planning_rows():
    grid = large_grid()
    assert len(grid) == MILLION
    with tempfile.TemporaryDirectory() as folder:
        empty = FinishedCells(RunFolder(folder), grid)
        yield timed("plan: every shard of a fresh run", lambda: drain(grid, empty), MILLION)
        write_finished(grid, RunFolder(folder))
        yield timed("resume: read a million finished rows", lambda: FinishedCells(RunFolder(folder), grid), MILLION)
        finished = FinishedCells(RunFolder(folder), grid)
        assert len(finished) == MILLION
        yield timed("resume: find that nothing is left", lambda: drain(grid, finished), MILLION)
        started = time.perf_counter()
        done = compact(RunFolder(folder))
        seconds = time.perf_counter() - started
        assert len(FinishedCells(RunFolder(folder), grid)) == MILLION
        yield row(
            f"compact: {done.files_before} part files into {done.files_after}", MILLION, seconds, process_memory()
        )


def write_finished(grid, folder):
    provenance = Provenance(
        run="x", dataset="x", classifier_fingerprint="x", attack="de", attack_settings="{}", height=4, width=4,
        channels=1, device="cpu", runtime="{}", versions="{}",
    )  # fmt: skip
    step = 20_000
    for start in range(0, len(grid), step):
        findings = [
            Finding(
                cell=cell,
                fooled=False,
                confidence=0.5,
                background_confidence=0.1,
                predicted_class=0,
                predicted_confidence=0.5,
                stop_reason=StopReason.BUDGET,
            )
            for cell in grid.cells(range(start, start + step))
        ]
        PartWriter(folder, start, start + step).commit(findings, provenance)


def trivial_rows(num_cells, num_actors):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
    classifier = Classifier(module, name="toy", input_shape=(1, 4, 4), num_classes=10)

    def run(where, cluster, **options):
        with tempfile.TemporaryDirectory() as folder:
            job = Job.model_validate(
                {
                    "name": "trivial",
                    "dataset": {"name": "toy", "shape": [1, 4, 4], "class_names": [str(i) for i in range(10)]},
                    "classifiers": ["toy"],
                    "backgrounds": ["black"],
                    "k": 1,
                    "replicates": num_cells // 10,
                    "attack": {"kind": "de", "population_size": 4, "generations": 0},
                    "cluster": cluster,
                    "output": folder,
                }
            )
            started, on_cpu = time.perf_counter(), time.process_time()
            launched = launch(job, classifiers={"toy": classifier}, **options)
            seconds, on_cpu = time.perf_counter() - started, time.process_time() - on_cpu
            assert launched.status().is_complete
            num_parts = len(launched.dataset.files)
            where += f", {num_parts} part files"
            rows = [row(f"search trivial cells {where}", num_cells, seconds, process_memory())]
            if not options.get("in_process"):
                rows.append(row(f"... of which the driver's own, {where}", num_cells, on_cpu, process_memory()))
            started = time.perf_counter()
            done = compact(launched.folder)
            seconds = time.perf_counter() - started
            what = f"compact: {done.files_before} part files into {done.files_after}"
            return [*rows, row(what, num_cells, seconds, process_memory())]

    yield from run("in this process", {}, in_process=True)
    with ray_session(None, dashboard=False):
        share = {"actors": num_actors, "cpus_per_actor": 1 / num_actors, "flush_seconds": 1}
        yield from run(f"over Ray, {num_actors} actors", share)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trivial-cells", type=int, default=100_000)
    parser.add_argument("--actors", type=int, default=8)
    options = parser.parse_args()
    pa.set_cpu_count(1)
    rows = []
    for made in itertools.chain(planning_rows(), trivial_rows(options.trivial_cells, options.actors)):
        rows.append(made)
        print(made, flush=True)
    write_report(
        "driver_cost",
        __doc__,
        rows,
        command=f"uv run benchmarks/driver_cost.py --trivial-cells {options.trivial_cells} --actors {options.actors}",
    )


if __name__ == "__main__":
    main()
