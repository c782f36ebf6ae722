"""What asking costs: candidates a second of optimisers of nevergrad, over those of differential evolution.

    uv run benchmarks/asking.py [--evaluations N] [--rounds N]

Four cells, k = 5 on 28x28 gray images, no classifier: every candidate is told the same kind of smooth loss. A round
takes all contenders one after the other; ratios are within a round. `plain loop` is nevergrad asked and told without
this project, cell by cell. Megabytes are what Python holds for one cell at the end.
"""

import argparse
import statistics
import time
import tracemalloc
import warnings

import nevergrad
import torch
from report import write_report

from sfi_ray.search import (
    Answer,
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    NevergradSettings,
    NewCells,
    SearchSpace,
)
from sfi_ray.search.nevergrad.cell import make_cube
from sfi_ray.search.nevergrad.search import NevergradSearch, num_workers

SPACE = SearchSpace(height=28, width=28, channels=1, k=5, num_classes=10)
NUM_CELLS = 4
NUM_WORKERS = 30
OPTIMISERS = ("RandomSearch", "OnePlusOne", "DE", "TwoPointsDE", "VoronoiDE", "RealSpacePSO", "TBPSA", "DiagonalCMA",
              "CMA", "NGOpt", "NelderMead", "RCobyla")  # fmt: skip


def new_cells(num_cells):
    return NewCells(torch.arange(num_cells), torch.arange(num_cells) % 10, torch.zeros(num_cells, 1))


def losses(genes):
    return (genes / torch.tensor([28.0, 28.0, 1.0]) - 0.3).square().sum(dim=(1, 2))


def search(searcher, num_cells=NUM_CELLS):
    """Searches to the end of the budget and returns the candidates proposed."""
    searcher.admit(new_cells(num_cells))
    while not searcher.is_exhausted.all():
        genes = searcher.ask().genes
        searcher.tell(Answer(-losses(genes).unsqueeze(1).expand(-1, 10)))
    return int(searcher.evaluations.sum())


def rate(make):
    started = time.perf_counter()
    count = search(make())
    return count / (time.perf_counter() - started)


def settings_of(name, evaluations):
    return NevergradSettings(optimizer=name, max_evaluations=evaluations, num_workers=NUM_WORKERS)


def plain_rate(name, evaluations):
    workers = num_workers(settings_of(name, evaluations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        for seed in range(NUM_CELLS):
            optimizer = nevergrad.optimizers.registry[name](make_cube((5, 3), seed), evaluations, workers)
            for _ in range(evaluations // workers):
                candidates = [optimizer.ask() for _ in range(workers)]
                for candidate in candidates:
                    optimizer.tell(candidate, float(((candidate.value - 0.3) ** 2).sum()))
        return NUM_CELLS * evaluations / (time.perf_counter() - started)


def megabytes(name, evaluations):
    searcher = NevergradSearch(SPACE, settings_of(name, evaluations))
    tracemalloc.start()
    search(searcher, 1)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return held / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    evaluations = options.evaluations
    native = DifferentialEvolutionSettings(population_size=NUM_WORKERS, generations=evaluations // NUM_WORKERS - 1)
    rows = []
    rounds = {name: [] for name in OPTIMISERS}
    natives = []
    for _ in range(options.rounds):
        natives.append(max(rate(lambda: DifferentialEvolution(SPACE, native)) for _ in range(5)))
        for name in OPTIMISERS:
            adapted = rate(lambda name=name: NevergradSearch(SPACE, settings_of(name, evaluations)))
            rounds[name].append((adapted, plain_rate(name, evaluations), natives[-1]))
            print(name, rounds[name][-1], flush=True)
    rows.append({"search": "de", "candidates/s": round(statistics.median(natives)), "microseconds a candidate":
                 f"{1e6 / statistics.median(natives):.1f}", "over plain loop": "", "de over it": "1",
                 "megabytes a cell": ""})  # fmt: skip
    for name, measured in rounds.items():
        adapted = statistics.median(rate for rate, _, _ in measured)
        rows.append(
            {
                "search": name,
                "candidates/s": round(adapted),
                "microseconds a candidate": f"{1e6 / adapted:.0f}",
                "over plain loop": f"{statistics.median(rate / plain for rate, plain, _ in measured):.2f}",
                "de over it": f"{statistics.median(de / rate for rate, _, de in measured):.0f}",
                "megabytes a cell": f"{megabytes(name, evaluations):.1f}",
            }
        )
    write_report(
        "asking",
        __doc__,
        rows,
        command=f"uv run benchmarks/asking.py --evaluations {evaluations} --rounds {options.rounds}",
    )


if __name__ == "__main__":
    main()
