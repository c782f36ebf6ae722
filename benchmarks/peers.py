"""Search evaluations a second of this project and of others that search for sparse images, measured in turn in one run.

    sfi-ray train cnn_mp mnist -o FOLDER --preset paper_mnist
    uv run --group bench benchmarks/peers.py FOLDER [--cores N] [--seconds S] [--rounds R] [--cpu-time]

FOLDER holds the MNIST CNN_MP. All search one cell, class 3 on black with five pixels, in populations of 500 where the
population can be chosen; whoever ends early begins again. An evaluation is an image that the network was given. Peers
call the network as torch gives it, in float32, a generation at once unless they cut it themselves; those that only
optimise have their candidates painted by this project. This project's own searches run as a job that says nothing
computes, and with `compute.precision: float32` and `measured`. Each search has the cores as its users would give it
them. A peer has a process whose torch has a thread for each core. This project has what a launch starts, an actor for
each core. What this project sets for a process (that it keeps freed memory) helps nobody else. All search
in turn, round by round, so that a machine whose speed drifts drifts for all; ratios are medians over rounds. With
--cpu-time, seconds are those that the CPU spent on a search's process, which others hardly change: for one core only.
"""

import argparse
import itertools
import json
import logging
import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from report import write_report
from safetensors.torch import load_file

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import decode, paint
from sfi_ray.models import Classifier, TuningRequest, build, tune
from sfi_ray.types import Background

SHAPE = (1, 28, 28)
TARGET = 3
K = 5
POPULATION = 500


class TimeIsUpError(Exception):
    """Ends a peer that would go on."""


class Counted(torch.nn.Module):
    """The network on images in [0, 1], counting them, until the time is up."""

    def __init__(self, module, mean, std, clock):
        super().__init__()
        self.module, self.mean, self.std, self.clock = module, mean[0], std[0], clock
        self.seen, self.deadline = 0, float("inf")

    def forward(self, images):
        logits = self.module((images - self.mean) / self.std)
        self.seen += len(images)
        if self.clock() > self.deadline:
            raise TimeIsUpError
        return logits


def search_rate(run, network, seconds):
    """Runs a peer again and again until the time is up and returns its evaluations a second."""
    network.seen, started = 0, network.clock()
    network.deadline = started + seconds
    try:
        while True:
            run()
    except TimeIsUpError:
        return network.seen / (network.clock() - started)


def objective(network):
    """Returns what optimisers minimise: genes in the unit cube, ``(M, K * 3)``, to negative log-probabilities."""
    scale = torch.tensor([SHAPE[1], SHAPE[2], 1.0]).repeat(K)
    black = torch.zeros(1, 1)

    def evaluate(genes):
        genes = torch.from_numpy(np.array(genes, dtype=np.float32))  # EvoTorch's are read-only
        genes = (genes * scale).view(len(genes), K, 3)
        images = paint(*decode(genes, *SHAPE[1:]), black.expand(len(genes), 1), *SHAPE[1:])
        with torch.inference_mode():
            return -torch.log_softmax(network(images), dim=1)[:, TARGET]

    return evaluate


def torchattacks_one_pixel(network):
    import torchattacks

    attack = torchattacks.OnePixel(network, pixels=K, steps=1000, popsize=POPULATION)
    attack.set_mode_targeted_by_label(quiet=True)
    black, label = torch.zeros(1, *SHAPE), torch.tensor([TARGET])
    return lambda: attack(black, label)


def art_pixel_attack(network):
    from art.attacks.evasion import PixelAttack
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model=network,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=SHAPE,
        nb_classes=10,
        clip_values=(0, 1),
        device_type="cpu",
    )
    attack = PixelAttack(classifier, th=K, es=1, max_iter=1000, targeted=True)
    black, label = np.zeros((1, *SHAPE), dtype=np.float32), np.eye(10, dtype=np.float32)[[TARGET]]
    return lambda: attack.generate(x=black, y=label)


def scipy_differential_evolution(network):
    from scipy.optimize import differential_evolution

    evaluate = objective(network)
    members = max(1, POPULATION // (3 * K))  # scipy counts a population in multiples of the genes
    return lambda: differential_evolution(
        lambda genes: evaluate(genes.T).numpy(),
        [(0, 1)] * (3 * K),
        popsize=members,
        maxiter=1000,
        vectorized=True,
        updating="deferred",
        polish=False,
        tol=0,
    )


def nevergrad_de(network):
    import nevergrad

    evaluate = objective(network)

    def run():
        cube = nevergrad.p.Array(shape=(3 * K,), lower=0, upper=1)
        optimiser = nevergrad.optimizers.registry["DE"](cube, budget=10**6, num_workers=POPULATION)
        while True:
            asked = [optimiser.ask() for _ in range(POPULATION)]
            losses = evaluate(np.stack([candidate.value for candidate in asked])).tolist()
            for candidate, loss in zip(asked, losses, strict=True):
                optimiser.tell(candidate, loss)

    return run


def evotorch_cma_es(network):
    from evotorch import Problem
    from evotorch.algorithms import CMAES

    evaluate = objective(network)

    def run():
        problem = Problem("min", evaluate, initial_bounds=(0, 1), solution_length=3 * K, vectorized=True)
        CMAES(problem, stdev_init=0.3, popsize=POPULATION).run(10**6)

    return run


PEERS = {
    "torchattacks OnePixel": torchattacks_one_pixel,
    "ART PixelAttack (DE)": art_pixel_attack,
    "scipy differential_evolution, vectorized": scipy_differential_evolution,
    "nevergrad DE": nevergrad_de,
    "EvoTorch CMA-ES": evotorch_cma_es,
}


def own_rate(attack, classifier, seconds, clock):
    """Runs an attack of this project again and again until the time is up and returns its evaluations a second."""
    grid = Grid(
        classifiers=(GridClassifier("cnn_mp", "f"),),
        backgrounds=(Background("black", (0,)),),
        target_classes=((TARGET, str(TARGET)),),
        ks=(K,),
        replicates=1,
        seed=0,
        method={},
    )
    count, started = 0, clock()
    while True:
        for event in attack.search(classifier, list(grid.cells([0])), 1.0):
            count += event.evaluations if isinstance(event, Tick) else 0
            if (spent := clock() - started) >= seconds:
                return count / spent


OWN = {
    "de": {"kind": "de", "population_size": POPULATION, "generations": 1000},
    "map_elites": {"kind": "map_elites", "max_evaluations": 500_000, "num_candidates": POPULATION},
}
PRECISIONS = {"default": "auto", "float32": "float32", "measured": "measured"}


def serve(kind, word, options, connection):
    """Says in a process of its own what a search is called, then its evaluations a second as often as it is asked.

    Args:
        kind: Name of a peer, or of an attack of this project.
        word: How an attack of this project computes; None for a peer.
        options: Those of the command line.
        connection: Takes seconds, gives rates.
    """
    warnings.filterwarnings("ignore")  # the peers' own
    logging.disable(logging.INFO)
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.cores if word is None else 1)
    card = json.loads((options.folder / "card.json").read_text())
    module = build("cnn_mp", input_shape=SHAPE, num_classes=10)
    module.load_state_dict(load_file(options.folder / "weights.safetensors"))
    module.eval().requires_grad_(False)
    if word is None:
        network = Counted(module, card["mean"], card["std"], clock)
        peer = PEERS[kind](network)
        connection.send(kind)
        while seconds := connection.recv():
            connection.send(search_rate(peer, network, seconds))
        return
    rule = Classifier(module, name="rule", input_shape=SHAPE, num_classes=10, mean=card["mean"], std=card["std"])
    request = TuningRequest(precision=PRECISIONS[word], micro_batch=None, threads=1, ks=(K,), is_long=True)
    runtime = connection.recv()
    if runtime is None:  # the first one measures for all
        runtime = tune(rule, request).runtime
        connection.send(runtime)
    classifier = rule.running(runtime)
    attack = read_attack_settings(OWN[kind]).build()
    connection.send(f"sfi_ray {kind}, {word}: {runtime.describe()}")
    while seconds := connection.recv():
        connection.send(own_rate(attack, classifier, seconds, clock))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, where others use it, too")
    options = parser.parse_args()
    processes = multiprocessing.get_context("spawn")
    contenders, started = {}, []
    for kind, word in [*itertools.product(OWN, PRECISIONS), *((peer, None) for peer in PEERS)]:
        connections, runtime = [], None
        for _ in range(1 if word is None else options.cores):
            here, there = processes.Pipe()
            started.append(processes.Process(target=serve, args=(kind, word, options, there), daemon=True))
            started[-1].start()
            there.close()
            connections.append(here)
            if word is not None:
                here.send(runtime)
                runtime = runtime or here.recv()
            name = here.recv()
        contenders[name] = connections
    rates = {name: [] for name in contenders}
    for number, (name, connections) in itertools.product(range(options.rounds + 1), contenders.items()):
        for connection in connections:
            connection.send(options.seconds if number else min(1.0, options.seconds))
        rate = sum(connection.recv() for connection in connections)
        if number:  # the first round warms up
            rates[name].append(rate)
            print(f"{number} {name}: {rate:,.0f}", flush=True)
    for connection in itertools.chain.from_iterable(contenders.values()):
        connection.send(0)  # enough
    for process in started:
        process.join()
    default, float32 = (next(name for name in rates if f"de, {word}:" in name) for word in ("default", "float32"))

    def times(one, other):
        return f"{statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True)):.1f}"

    write_report(
        f"peers_on_{options.cores}_core{'s' * (options.cores > 1)}",
        __doc__,
        [
            {
                "search": name,
                "evaluations/s": round(statistics.median(values)),
                "range": f"{min(values):,.0f} to {max(values):,.0f}",
                "sfi_ray de, default, is faster by": times(default, name),
                "sfi_ray de, float32, is faster by": times(float32, name),
            }
            for name, values in rates.items()
        ],
        command=f"uv run --group bench benchmarks/peers.py FOLDER --cores {options.cores} "
        f"--seconds {options.seconds:g} --rounds {options.rounds}" + " --cpu-time" * options.cpu_time,
    )


if __name__ == "__main__":
    main()
