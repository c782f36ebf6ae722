"""Search evaluations a second over the classifier's own best forward rate, both measured in turn in one run.

    uv run benchmarks/throughput.py [--threads N] [--seconds S] [--rounds R]

For each network, the forward rate is that of `Classifier.log_probs` on ready-made images, once in the micro-batch that
is fastest here among powers of two, and once in the one that the search takes by default. The search is the paper's
differential evolution through the whole attack: proposing, painting, classifying, learning. Rounds alternate, so that
a machine whose speed drifts drifts for all three; ratios are medians over rounds.
"""

import argparse
import itertools
import statistics
import time

import torch
from report import write_report

from sfi_ray.attacks import DifferentialEvolutionAttackSettings, Tick
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.models import Classifier, build
from sfi_ray.plan import forward_rate
from sfi_ray.types import Background

CASES = [("mlp", (1, 28, 28)), ("cnn_mp", (1, 28, 28)), ("cnn_none", (1, 28, 28)), ("cnn_mp", (3, 32, 32))]


def best_micro_batch(module, shape, threads, seconds):
    """Returns the forward rates by micro-batch."""
    rates = {}
    for exponent in range(4, 10):
        classifier = Classifier(module, name="x", input_shape=shape, num_classes=10, micro_batch=2**exponent)
        rates[2**exponent] = forward_rate(classifier, threads, seconds)
    return max(rates, key=rates.get)


def search_rate(classifier, seconds):
    """Runs the paper's attack for a while and returns its evaluations a second."""
    channels = classifier.input_shape[0]
    grid = Grid(
        classifiers=(GridClassifier("x", "x"),),
        backgrounds=(Background("black", (0,) * channels),),
        target_classes=tuple((i, str(i)) for i in range(10)),
        ks=(5,),
        replicates=1,
        seed=0,
        method={},
    )
    attack = DifferentialEvolutionAttackSettings(preset="paper").build()
    events = attack.search(classifier, list(grid.cells(range(len(grid)))), 0.9)
    for _ in itertools.islice(events, 40):  # the initial population is drawn once
        pass
    count, started = 0, time.perf_counter()
    for event in events:
        count += event.evaluations if isinstance(event, Tick) else 0
        if (spent := time.perf_counter() - started) >= seconds:
            break
    events.close()
    return count / spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name, shape in CASES:
        module = build(name, input_shape=shape, num_classes=10)
        micro_batch = best_micro_batch(module, shape, options.threads, options.seconds)
        best = Classifier(module, name="best", input_shape=shape, num_classes=10, micro_batch=micro_batch)
        searched = Classifier(module, name="searched", input_shape=shape, num_classes=10)
        rounds = [
            (
                forward_rate(best, options.threads, options.seconds),
                forward_rate(searched, options.threads, options.seconds),
                search_rate(searched, options.seconds),
            )
            for _ in range(options.rounds)
        ]
        over_best = [search / forward for forward, _, search in rounds]
        rows.append(
            {
                "network": f"{name} {'x'.join(map(str, shape))}",
                "fastest micro-batch": micro_batch,
                "its forward images/s": round(statistics.median(rate for rate, _, _ in rounds)),
                "search micro-batch": searched.micro_batch,
                "search evaluations/s": round(statistics.median(rate for _, _, rate in rounds)),
                "search over forward, fastest": f"{statistics.median(over_best):.3f}",
                "range": f"{min(over_best):.3f} to {max(over_best):.3f}",
                "search over forward, same micro-batch": f"{statistics.median(r / f for _, f, r in rounds):.3f}",
            }
        )
        print(rows[-1], flush=True)
    write_report(
        "throughput",
        __doc__,
        rows,
        command=f"uv run benchmarks/throughput.py --threads {options.threads} --seconds {options.seconds:g} "
        f"--rounds {options.rounds}",
    )


if __name__ == "__main__":
    main()
