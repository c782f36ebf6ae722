"""What `sfi_ray.models.runners.partial_batches` brings: less than a micro-batch where that gives the same bits.

    uv run benchmarks/padding.py [--rounds N]

Evaluations a second of whole searches with few cells, in one thread and float32, in turn with and without: what does
not fill a micro-batch of 128 images is run in smaller ones, after a look at their bits that is counted too, or padded.
The seconds are the CPU's own. Weights are random.
"""

import argparse
import statistics
import time

import torch
from report import write_report

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier, build
from sfi_ray.models.runners.partial_batches import PartialBatches

GRADIENT = {"kind": "gradient", "max_evaluations": 1000}
ELITES = {"kind": "map_elites", "max_evaluations": 500}
LED = {"kind": "map_elites", "max_evaluations": 500, "gradient_share": 0.5}
CASES = {
    "gradient, 1 cell, cnn_mp 1x28x28": ("cnn_mp", (1, 28, 28), 1, GRADIENT),
    "gradient, 10 cells, cnn_mp 1x28x28": ("cnn_mp", (1, 28, 28), 10, GRADIENT),
    "elites, 10 classes, cnn_mp 1x28x28": ("cnn_mp", (1, 28, 28), 10, ELITES),
    "elites with gradients, 10 classes, cnn_mp 1x28x28": ("cnn_mp", (1, 28, 28), 10, LED),
    "gradient, 1 cell, vgg16 3x32x32": ("vgg16", (3, 32, 32), 1, GRADIENT),
    "elites, 10 classes, vgg16 3x32x32": ("vgg16", (3, 32, 32), 10, {"kind": "map_elites", "max_evaluations": 160}),
}
WHOLE_ONLY = 1 << 30


def rate(name, shape, num_cells, settings):
    """Returns evaluations a second of a search, and what it found."""
    torch.manual_seed(0)
    module = build(name, input_shape=shape, num_classes=10)
    classifier = Classifier(module, name=name, input_shape=shape, num_classes=10, micro_batch=128)
    grid = Grid(
        classifiers=(GridClassifier(name, classifier.fingerprint),),
        backgrounds=(parse_background("gray", shape[0]),),
        target_classes=tuple((i, str(i)) for i in range(num_cells)),
        ks=(5,),
        replicates=1,
        seed=0,
        method={},
    )
    attack, cells = read_attack_settings(settings).build(), list(grid.cells(range(len(grid))))
    start = time.process_time()
    found = [event for event in attack.search(classifier, cells, 0.9) if not isinstance(event, Tick)]
    taken = time.process_time() - start
    return sum(finding.evaluations for finding in found) / taken, [finding.confidence for finding in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    least, rows = PartialBatches.least, []
    for case, described in CASES.items():
        rates = {}
        for _ in range(options.rounds):
            found = {}
            for smallest in (least, WHOLE_ONLY):
                PartialBatches.least = smallest
                one, found[smallest] = rate(*described)
                rates.setdefault(smallest, []).append(one)
            if found[least] != found[WHOLE_ONLY]:
                raise RuntimeError(f"{case}: padding changed what was found")
        gains = [one / other for one, other in zip(*rates.values(), strict=True)]
        rows.append(
            {
                "search": case,
                "evaluations/s, smaller passes": round(statistics.median(rates[least])),
                "padded": round(statistics.median(rates[WHOLE_ONLY])),
                "gain": f"{statistics.median(gains):.2f} ({min(gains):.2f} to {max(gains):.2f})",
            }
        )
        print(rows[-1], flush=True)
    write_report("padding", __doc__, rows, command=f"uv run benchmarks/padding.py --rounds {options.rounds}")


if __name__ == "__main__":
    main()
