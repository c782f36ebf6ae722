"""Whether memory stays flat and cost grows in proportion: to cells, to evaluations, and to k.

    uv run benchmarks/scaling.py [--generations N] [--kinds KIND ...]

A tiny linear classifier, so that the search is what costs. Memory is that of the process after each tenth of one
search's generations, of 10 cells with 10 candidates each. Cost is the CPU's time for whole searches over a base of 20
cells, 100 generations of 100 candidates, and k = 5, of which one is changed at a time; "per unit" is that time over the
base's, divided by how many times more there was of it: 1 is proportional, below 1 is cheaper.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from report import write_report
from torch import nn

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.models import Classifier
from sfi_ray.types import Background

SHAPE = (1, 28, 28)
BASE = {"cells": 20, "generations": 100, "k": 5}
FACTORS = {"cells": (2, 8), "generations": (2, 8), "k": (2, 8, 32)}
KINDS = ("de", "jde", "map_elites")


def settings_of(kind, generations, candidates):
    if kind == "map_elites":
        return {"kind": kind, "max_evaluations": candidates * generations, "num_candidates": candidates}
    return {"kind": kind, "population_size": candidates, "generations": generations}


def search(classifier, kind, *, cells, generations, k, candidates=100):
    """Runs one search and yields its evaluations as they come."""
    grid = Grid(
        classifiers=(GridClassifier("x", "x"),),
        backgrounds=(Background("black", (0,)),),
        target_classes=tuple((i, str(i)) for i in range(10)),
        ks=(k,),
        replicates=cells // 10,
        seed=0,
        method={},
    )
    attack = read_attack_settings(settings_of(kind, generations, candidates)).build()
    for event in attack.search(classifier, list(grid.cells(range(len(grid)))), 1.0):
        if isinstance(event, Tick):
            yield event.evaluations


def seconds_of(classifier, kind, **sizes):
    started = time.process_time()
    for _ in search(classifier, kind, **sizes):
        pass
    return time.process_time() - started


def resident_mib():
    """Returns the memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def memory_rows(classifier, kinds, generations):
    rows = []
    for kind in kinds:
        seen, readings = 0, []
        total = 10 * 10 * generations
        for evaluations in search(classifier, kind, cells=10, generations=generations, k=5, candidates=10):
            seen += evaluations
            if seen >= total * (len(readings) + 1) / 10:
                readings.append(resident_mib())
        rows.append(
            {
                "search": kind,
                "measured": f"MiB after each tenth of {generations:,} generations",
                "result": " ".join(f"{reading:.1f}" for reading in readings),
            }
        )
        print(rows[-1], flush=True)
    return rows


def cost_rows(classifier, kinds):
    rows = []
    for kind in kinds:
        seconds_of(classifier, kind, **BASE)
        base = statistics.median(seconds_of(classifier, kind, **BASE) for _ in range(5))
        for what, factors in FACTORS.items():
            times = [seconds_of(classifier, kind, **{**BASE, what: BASE[what] * factor}) for factor in factors]
            units = [spent / base / factor for spent, factor in zip(times, factors, strict=True)]
            rows.append(
                {
                    "search": kind,
                    "measured": f"cost per unit of {factors} times more {what}",
                    "result": " ".join(f"{unit:.2f}" for unit in units),
                }
            )
            print(rows[-1], flush=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    classifier = Classifier(module, name="linear", input_shape=SHAPE, num_classes=10)
    rows = cost_rows(classifier, options.kinds) + memory_rows(classifier, options.kinds, options.generations)
    write_report("scaling", __doc__, rows, command=f"uv run benchmarks/scaling.py --generations {options.generations}")


if __name__ == "__main__":
    main()
