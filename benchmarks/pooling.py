"""Is max pooling what makes a CNN vulnerable, as Section 5.6 of the paper says?

One network with five ways to halve its maps.

    uv run benchmarks/pooling.py [--datasets fashion-mnist,cifar10] [--seeds 5] [--output FOLDER]

The network is CNN_MP with 16, 32 and 32 channels. Its three poolings are exchanged for others of the same output size:
max, average, a stride of 2 in the convolution before, a blur, or max at every place and then a blur. The last one is
the MaxBlurPool of Zhang (2019). All five have the same weights to learn and, for one seed, the same initial ones. Each
is trained alike and searched for a 5-SFI of every class on black, gray and white by `map_elites`. No search ends early.

Rows are appended to rows.jsonl in the output folder as networks end; a second call goes on where the first was stopped.
"""

import argparse
import functools
import itertools
import json
import statistics
from pathlib import Path

import torch
from report import write_report
from torch import nn
from torch.nn import functional

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.data import DatasetSpec, load_dataset
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier, TrainingSettings
from sfi_ray.models.runners.normalisation import channel_statistics
from sfi_ray.models.training.evaluation import evaluate
from sfi_ray.models.training.learner import Learner
from sfi_ray.models.zoo.small import Cnn

TRAINING = {"fashion-mnist": {"epochs": 3}, "cifar10": {"preset": "fast_cifar10", "precision": "float32", "epochs": 5}}


class Blur(nn.Module):
    """Low-pass filter 1-2-1 in both directions, edges repeated: (B, C, H, W) to half the sizes, rounded up."""

    def forward(self, maps):
        line = torch.tensor([1.0, 2.0, 1.0])
        kernel = (torch.outer(line, line) / 16).expand(maps.shape[1], 1, 3, 3)
        return functional.conv2d(
            functional.pad(maps, (1, 1, 1, 1), "replicate"), kernel, stride=2, groups=maps.shape[1]
        )


class DenseMax(nn.Module):
    """Max over 2x2 at every place, edges repeated: (B, C, H, W) to the same sizes."""

    def forward(self, maps):
        return functional.max_pool2d(functional.pad(maps, (0, 1, 0, 1), "replicate"), 2, stride=1)


POOLINGS = {
    "max": lambda: nn.MaxPool2d(2, ceil_mode=True),
    "average": lambda: nn.AvgPool2d(2, ceil_mode=True),
    "stride": nn.Identity,
    "max and blur": lambda: nn.Sequential(DenseMax(), Blur()),
    "blur": Blur,
}


def network(pooling, info, seed):
    """Returns the network with one way of pooling; its initial weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Cnn(*info.shape, info.num_classes, has_pooling=True, widths=(16, 32, 32))
    for number in (1, 2, 3):
        setattr(module, f"pool{number}", POOLINGS[pooling]())
        if pooling == "stride":
            getattr(module, f"conv{number}").stride = (2, 2)
    return module


def trained(module, dataset, seed, threads):
    """Trains a network; returns its classifier and its accuracy and mean confidence on natural test images."""
    info = dataset.info
    settings = TrainingSettings(**TRAINING[info.name], seed=seed, threads=threads)
    learner = Learner(module, dataset, settings)
    for _ in learner.run():
        pass
    mean, std = channel_statistics(dataset.train_images)
    classifier = Classifier(
        learner.module, name="cnn", input_shape=info.shape, num_classes=info.num_classes, mean=mean, std=std
    )
    return classifier, evaluate(classifier.log_probs, dataset.test_images, dataset.test_labels, device="cpu")


def searched(classifier, info, settings, k, seed, replicates=1):
    """Yields what a search finds for every class on black, gray and white."""
    settings = read_attack_settings(settings)
    grid = Grid(
        classifiers=(GridClassifier(classifier.name, classifier.fingerprint),),
        backgrounds=tuple(parse_background(colour, info.channels) for colour in ("black", "gray", "white")),
        target_classes=tuple(enumerate(info.class_names)),
        ks=(k,),
        replicates=replicates,
        seed=seed,
        method=settings.model_dump(mode="json"),
    )
    events = settings.build().search(classifier, list(grid.cells(range(len(grid)))), 0.9)
    return (event for event in events if not isinstance(event, Tick))


def attacked(classifier, info, seed, budget, k=5):
    """Returns the confidence of the best k-SFI of each class, by background."""
    confidences = {}
    findings = searched(classifier, info, {"kind": "map_elites", "max_evaluations": budget}, k, seed)
    for finding in sorted(findings, key=lambda one: one.cell.index):
        confidences.setdefault(finding.cell.background.name, []).append(finding.confidence)
    return confidences


def remembered(path, place, measure):
    """Returns the row of a place in a file of rows; where there is none, it is measured and appended."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    row = next((row for row in rows if place.items() <= row.items()), None)
    if row is None:
        row = place | measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row) + "\n")
    return row


def spread(values):
    """Returns mean and standard deviation over the seeds, in percent."""
    return f"{100 * statistics.mean(values):.0f} ± {100 * statistics.stdev(values) if len(values) > 1 else 0:.0f}"


def found(rows):
    """Returns what was found in networks of one kind, by column, over all cells and by background; see `spread`."""
    everything = [[*itertools.chain(*row["confidences"].values())] for row in rows]
    line = {
        "5-SFIs: mean confidence, %": spread([statistics.mean(values) for values in everything]),
        "from 90 %": spread([sum(value >= 0.9 for value in values) / len(values) for values in everything]),
    }
    for colour in rows[0]["confidences"]:
        line[colour] = spread([statistics.mean(row["confidences"][colour]) for row in rows])
    return line


def table(rows):
    """Returns a line for each data set and pooling: means over seeds with their standard deviation, in percent."""
    lines = []
    for dataset, pooling in dict.fromkeys((row["dataset"], row["pooling"]) for row in rows):
        of_it = [row for row in rows if (row["dataset"], row["pooling"]) == (dataset, pooling)]
        line = {"data set": dataset, "pooling": pooling, "seeds": len(of_it)}
        line["accuracy, %"] = spread([row["accuracy"] for row in of_it])
        line["natural confidence, %"] = spread([row["natural_confidence"] for row in of_it])
        lines.append(line | found(of_it))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=["fashion-mnist", "cifar10"])
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind")
    parser.add_argument("--budget", type=int, default=2000, help="images a class")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/pooling"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for name in options.datasets:
        dataset = load_dataset(DatasetSpec(name=name))

        def measure(pooling, seed, dataset=dataset):
            module = network(pooling, dataset.info, seed)
            classifier, natural = trained(module, dataset, seed, options.threads)
            confidences = attacked(classifier, dataset.info, seed, options.budget)
            natural = {"accuracy": natural.accuracy, "natural_confidence": natural.confidence}
            return natural | {"confidences": confidences}

        for seed, pooling in itertools.product(range(options.seeds), POOLINGS):
            place = {"dataset": name, "seed": seed, "pooling": pooling, "budget": options.budget}
            rows.append(remembered(options.output / "rows.jsonl", place, functools.partial(measure, pooling, seed)))
            print(table(rows[-1:])[0], flush=True)
    command = f"uv run benchmarks/pooling.py --datasets {','.join(options.datasets)} --seeds {options.seeds}"
    name = "_".join(["pooling", *options.datasets])  # a data set on the same day has a report of its own
    write_report(name, __doc__, table(rows), command=f"{command} --budget {options.budget}")


if __name__ == "__main__":
    main()
