"""Do searches with and without gradients find the same sparse fooling images? The paper leaves it open.

Each search repeats the same cells, so that one search can be compared with itself.

    uv run benchmarks/agreement.py [--seeds 3] [--k 5] [--budget 1000]

For each seed, CNN_MP with 16, 32 and 32 channels is trained on Fashion-MNIST. Every class is searched on black, gray
and white, three times by each search. Two images of a cell are compared by their altered pixels. One number is
the share of one's pixels that the other alters as well (the same spot). The other counts those that the other has
within one pixel (near). Both are means of the two directions. The last row is what different classes of one
background have in common.
"""

import argparse
import itertools
import statistics
from collections import defaultdict

import torch
from pooling import network, searched, spread, trained
from report import write_report

from sfi_ray.data import DatasetSpec, load_dataset

SEARCHES = {
    "map_elites": {"kind": "map_elites"},
    "map_elites with gradients": {"kind": "map_elites", "gradient_share": 0.5},
    "gradient": {"kind": "gradient"},
}
REPEATS = 3


def found(classifier, info, settings, k, seed):
    """Returns a list of findings for each background and class, by repetition."""
    cells = defaultdict(list)
    for finding in searched(classifier, info, settings, k, seed, REPEATS):
        cells[finding.cell.background.name, finding.cell.target_class].append(finding)
    return cells


def common(one, other, distance):
    """Returns the share of altered pixels that two images have in common, in the mean of both directions."""
    shares = []
    for mine, others in ((one.pixels, other.pixels), (other.pixels, one.pixels)):
        if not mine or not others:
            return None
        hits = [any(max(abs(p.row - q.row), abs(p.col - q.col)) <= distance for q in others) for p in mine]
        shares.append(statistics.mean(hits))
    return statistics.mean(shares)


def compared(pairs):
    """Returns the mean shares of common spots and of near ones."""
    shares = [(common(one, other, 0), common(one, other, 1)) for one, other in pairs]
    return [statistics.mean(column) for column in zip(*(pair for pair in shares if None not in pair), strict=True)]


def of_network(classifier, info, options, seed):
    """Returns by pair of searches what their images have in common, and by search the mean confidence."""
    images = {
        name: found(classifier, info, settings | {"max_evaluations": options.budget}, options.k, seed)
        for name, settings in SEARCHES.items()
    }
    confidence = {
        name: statistics.mean(finding.confidence for one in cells.values() for finding in one)
        for name, cells in images.items()
    }
    shares = {}
    for one, other in itertools.combinations_with_replacement(SEARCHES, 2):
        pairs = [
            pair
            for cell, mine in images[one].items()
            for pair in (
                itertools.combinations(mine, 2) if one == other else itertools.product(mine, images[other][cell])
            )
        ]
        shares[one, other] = compared(pairs)
    foreign = [
        (mine[0], others[0])
        for (cell, mine), (place, others) in itertools.combinations(images["map_elites"].items(), 2)
        if cell[0] == place[0]
    ]
    shares["map_elites", "map_elites, another class"] = compared(foreign)
    return confidence, shares


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="networks")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--budget", type=int, default=1000, help="images a cell")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = load_dataset(DatasetSpec(name="fashion-mnist"))
    networks = []
    for seed in range(options.seeds):
        classifier, _ = trained(network("max", dataset.info, seed), dataset, seed, options.threads)
        networks.append(of_network(classifier, dataset.info, options, seed))
        print(networks[-1], flush=True)
    rows = [
        {
            "images of": one,
            "and of": other,
            "the same spots, %": spread([shares[one, other][0] for _, shares in networks]),
            "near spots, %": spread([shares[one, other][1] for _, shares in networks]),
        }
        for one, other in networks[0][1]
    ]
    confidences = [
        {"search": name, "mean confidence, %": spread([confidence[name] for confidence, _ in networks])}
        for name in SEARCHES
    ]
    command = f"uv run benchmarks/agreement.py --seeds {options.seeds} --k {options.k} --budget {options.budget}"
    write_report(
        "agreement",
        __doc__,
        rows,
        command=command,
        sections=[("Confidence", "Mean over cells, with the standard deviation over networks.", confidences)],
    )


if __name__ == "__main__":
    main()
