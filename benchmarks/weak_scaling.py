"""Weak scaling: two actors with twice the cells over one actor, as evaluations a second, each actor with its share.

    uv run benchmarks/weak_scaling.py [--cells N] [--repeats N]

A small CNN on 28x28 images, searched by differential evolution over a private Ray; the time from the first images that
are classified to the last row, so that Ray's and the actors' start do not count. What the machine itself gives is
measured beside it: the bare forward pass in one process and in two at once, without Ray. All four take turns. A ratio
is that of neighbours in time, 1 where the second core brings as much as the first; its median is given with its range.
"""

import argparse
import multiprocessing
import statistics
import tempfile
import time

import torch
from report import write_report
from torch import nn

from sfi_ray import Classifier, Job, launch
from sfi_ray.cluster.ray.session import ray_session
from sfi_ray.cluster.reporter import Reporter

MICRO_BATCH = 128


class Watch(Reporter):
    """Remembers when the first images were classified, and how many there were then."""

    def __init__(self):
        self.began = None

    def progressed(self, tally, seconds_left):
        if self.began is None and tally.evaluations:
            self.began = time.perf_counter(), tally.evaluations
        self.evaluations = tally.evaluations


def toy():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 13 * 13, 10)
    return Classifier(
        nn.Sequential(*layers), name="toy", input_shape=(1, 28, 28), num_classes=10, micro_batch=MICRO_BATCH
    )


def search_rate(num_actors, num_cells):
    """Returns evaluations a second over Ray."""
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
                "compute": {"micro_batch": MICRO_BATCH},
                "cluster": {"actors": num_actors},
                "output": folder,
            }
        )
        watch = Watch()
        launch(job, classifiers={"toy": toy()}, reporter=watch)
        began, before = watch.began
        return (watch.evaluations - before) / (time.perf_counter() - began)


def serve_forward(orders, answers):
    """Classifies random images for as many seconds as ordered, and answers with how many, until ordered None."""
    torch.set_num_threads(1)
    classifier, images = toy(), torch.rand(MICRO_BATCH, 1, 28, 28)
    while (seconds := orders.get()) is not None:
        number, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            classifier.log_probs(images)
            number += MICRO_BATCH
        answers.put(number / seconds)


def forward_rate(servers, answers, num_processes, seconds):
    """Returns images a second of the bare forward pass, in so many processes at once."""
    for orders in servers[:num_processes]:
        orders.put(seconds)
    return sum(answers.get() for _ in range(num_processes))


def line(what, rates):
    ratios = [two / (2 * one) for one, two in zip(rates[1], rates[2], strict=True)]
    return {
        "what": what,
        "one, a second": f"{statistics.median(rates[1]):,.0f}",
        "two, a second": f"{statistics.median(rates[2]):,.0f}",
        "two over twice one, median": f"{statistics.median(ratios):.3f}",
        "lowest": f"{min(ratios):.3f}",
        "highest": f"{max(ratios):.3f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=30, help="of each actor")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of the forward pass")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    servers, answers = [context.Queue(), context.Queue()], context.Queue()
    processes = [context.Process(target=serve_forward, args=(orders, answers), daemon=True) for orders in servers]
    for process in processes:
        process.start()
    forward_rate(servers, answers, 2, 1.0)  # warm
    searched, forward = {1: [], 2: []}, {1: [], 2: []}
    with ray_session(None, dashboard=False):
        for _ in range(options.repeats):
            for number in (1, 2):
                searched[number].append(search_rate(number, options.cells))
            for number in (1, 2):
                forward[number].append(forward_rate(servers, answers, number, options.seconds))
            print([f"{rates[number][-1]:,.0f}" for rates in (searched, forward) for number in (1, 2)], flush=True)
    for orders in servers:
        orders.put(None)
    rows = [line("search over Ray, evaluations", searched), line("bare forward pass, images", forward)]
    command = f"uv run benchmarks/weak_scaling.py --cells {options.cells} --repeats {options.repeats}"
    write_report("weak_scaling", __doc__, rows, command=command)


if __name__ == "__main__":
    main()
