"""Weak scaling: two actors with twice the cells over one actor, as evaluations a second, each actor with its share.

    uv run benchmarks/weak_scaling.py [--cells N] [--repeats N]

A small CNN on 28x28 images, searched by differential evolution over a private Ray; the time from the first images that
are classified to the last row, so that Ray's and the actors' start do not count. One and two actors take turns; the
ratio is that of the medians, 1 where the second core brings as much as the first.
"""

import argparse
import statistics
import tempfile
import time

import torch
from report import write_report
from torch import nn

from sfi_ray import Classifier, Job, launch
from sfi_ray.cluster.ray_session import ray_session
from sfi_ray.cluster.reporter import Reporter


class Watch(Reporter):
    """Remembers when the first images were classified, and how many there were then."""

    def __init__(self):
        self.began = None

    def progressed(self, tally, seconds_left):
        if self.began is None and tally.evaluations:
            self.began = time.perf_counter(), tally.evaluations
        self.evaluations = tally.evaluations


def rate_of(classifier, num_actors, num_cells):
    with tempfile.TemporaryDirectory() as folder:
        job = Job.model_validate(
            {
                "name": "scaling",
                "dataset": {"name": "toy", "shape": [1, 28, 28], "class_names": [str(i) for i in range(10)]},
                "classifiers": ["toy"],
                "backgrounds": ["black"],
                "k": 5,
                "replicates": num_actors * num_cells // 10,
                "attack": {"kind": "de", "population_size": 100, "generations": 100},
                "compute": {"micro_batch": 128},
                "cluster": {"actors": num_actors},
                "output": folder,
            }
        )
        watch = Watch()
        launch(job, classifiers={"toy": classifier}, reporter=watch)
        began, before = watch.began
        return (watch.evaluations - before) / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 13 * 13, 10)
    classifier = Classifier(nn.Sequential(*layers), name="toy", input_shape=(1, 28, 28), num_classes=10)
    rates = {1: [], 2: []}
    with ray_session(None, dashboard=False):
        for _ in range(options.repeats):
            for num_actors, found in rates.items():
                found.append(rate_of(classifier, num_actors, options.cells))
                print(num_actors, f"{found[-1]:,.0f} evaluations/s", flush=True)
    one, two = (statistics.median(found) for found in rates.values())
    rows = [
        {
            "actors": num_actors,
            "cells": num_actors * options.cells,
            "evaluations a second": f"{statistics.median(found):,.0f}",
            "over one actor's, for each": f"{statistics.median(found) / num_actors / one:.2f}",
        }
        for num_actors, found in rates.items()
    ]
    print(f"{two / (2 * one):.2f}")
    command = f"uv run benchmarks/weak_scaling.py --cells {options.cells} --repeats {options.repeats}"
    write_report("weak_scaling", __doc__, rows, command=command)


if __name__ == "__main__":
    main()
