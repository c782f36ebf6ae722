"""Search evaluations a second over the classifier's tuned forward rate, both measured in turn in one run.

    uv run benchmarks/throughput.py [--threads N] [--seconds S] [--rounds R] [--cpu-time]
    uv run benchmarks/throughput.py --device cuda --cases vgg16:3x32x32,torchvision-resnet50:3x224x224 --replicates 50

For each network and precision, the classifier computes as in a long job with this `compute.precision`; a job that says
nothing has `auto`. The forward rate is that of `Classifier.log_probs` on ready-made images; the search is the paper's
differential evolution through the whole attack: proposing, painting, classifying, learning.
"By rule" is the forward rate of the micro-batch that nobody measured, in float32. Rounds alternate, so that a machine
whose speed drifts drifts for all; ratios are medians over rounds. With --cpu-time, seconds are those that the CPU spent
on this process, which other processes hardly change; with one thread they are what a free core would take.
"""

import argparse
import itertools
import statistics
import time

import torch
import torchvision
from report import write_report

from sfi_ray.attacks import DifferentialEvolutionAttackSettings, Tick
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.models import Classifier, TuningRequest, build, tune
from sfi_ray.types import Background

CASES = "mlp:1x28x28,cnn_mp:1x28x28,cnn_none:1x28x28,cnn_mp:3x32x32"


def make(name, shape):
    """Returns a network with random weights and its number of classes."""
    if name.startswith("torchvision-"):
        return torchvision.models.get_model(name.removeprefix("torchvision-"), weights=None), 1000
    return build(name, input_shape=shape, num_classes=10), 10


def cases(text):
    """Reads `NAME:CxHxW,...`."""
    for case in text.split(","):
        name, _, shape = case.partition(":")
        yield name, tuple(map(int, shape.split("x")))


def forward_rate(classifier, seconds, clock):
    """Returns images a second."""
    images = torch.rand(4 * classifier.micro_batch, *classifier.input_shape, device=classifier.device)
    classifier.log_probs(images)
    wait(classifier)
    count, started = 0, clock()
    while (spent := clock() - started) < seconds:
        classifier.log_probs(images)
        wait(classifier)
        count += len(images)
    return count / spent


def wait(classifier):
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)


def search_rate(classifier, seconds, clock, replicates):
    """Runs the paper's attack for a while and returns its evaluations a second."""
    channels = classifier.input_shape[0]
    grid = Grid(
        classifiers=(GridClassifier("x", "x"),),
        backgrounds=(Background("black", (0,) * channels),),
        target_classes=tuple((i, str(i)) for i in range(10)),
        ks=(5,),
        replicates=replicates,
        seed=0,
        method={},
    )
    attack = DifferentialEvolutionAttackSettings(preset="paper").build()
    events = attack.search(classifier, list(grid.cells(range(len(grid)))), 0.9)
    for _ in itertools.islice(events, 40):  # the initial population is drawn once
        pass
    wait(classifier)
    count, started = 0, clock()
    for event in events:
        count += event.evaluations if isinstance(event, Tick) else 0
        if clock() - started >= seconds:
            break
    wait(classifier)
    spent = clock() - started
    events.close()
    return count / spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cases", default=CASES, help="networks of the zoo, or torchvision-NAME, with their input")
    parser.add_argument("--replicates", type=int, default=1, help="cells of each class that are searched side by side")
    parser.add_argument("--precisions", default="float32,auto,measured")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu-time", action="store_true", help="count seconds of the CPU, where others use it, too")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    torch.set_num_threads(options.threads)
    rows = []
    for (name, shape), precision in itertools.product(cases(options.cases), options.precisions.split(",")):
        module, num_classes = make(name, shape)
        rule = Classifier(module, name="rule", input_shape=shape, num_classes=num_classes, device=options.device)
        choice = tune(rule, TuningRequest(precision=precision, micro_batch=None, threads=options.threads, ks=(5,)))
        tuned = rule.running(choice.runtime)
        rounds = [
            (
                forward_rate(rule, options.seconds, clock),
                forward_rate(tuned, options.seconds, clock),
                search_rate(tuned, options.seconds, clock, options.replicates),
            )
            for _ in range(options.rounds)
        ]
        ratios = [search / forward for _, forward, search in rounds]
        rows.append(
            {
                "network": f"{name} {'x'.join(map(str, shape))}",
                "precision": precision,
                "computes in": choice.runtime.describe(),
                "forward images/s": round(statistics.median(forward for _, forward, _ in rounds)),
                "over by rule": f"{statistics.median(forward / other for other, forward, _ in rounds):.2f}",
                "search evaluations/s": round(statistics.median(search for _, _, search in rounds)),
                "search over forward": f"{statistics.median(ratios):.3f}",
                "range": f"{min(ratios):.3f} to {max(ratios):.3f}",
            }
        )
        print(rows[-1], flush=True)
    write_report(
        "throughput",
        __doc__,
        rows,
        command=f"uv run benchmarks/throughput.py --device {options.device} --cases {options.cases} "
        f"--replicates {options.replicates} --precisions {options.precisions} --threads {options.threads} "
        f"--seconds {options.seconds:g} --rounds {options.rounds}" + " --cpu-time" * options.cpu_time,
    )


if __name__ == "__main__":
    main()
