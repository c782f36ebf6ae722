"""Confidence by evaluations: every search on the same cells, in one run.

    uv run benchmarks/evaluations.py [--datasets mnist,fashion-mnist] [--budget N] [--budget-of NAME=N,...]

For CIFAR-10:

    uv run benchmarks/evaluations.py --datasets cifar10 --weights VGG16 --ks 5 --seeds 1 --budget 1000

Cells are every class on each background with each k, several seeds of each. The networks are CNN_MP for MNIST and
Fashion-MNIST, trained with the paper's recipe and kept in the project's training cache, and for CIFAR-10 a VGG16 whose
weights are a safetensors file. Nobody stops early. Every contender has its default settings and the same budget of
evaluations a class, unless `--budget-of` gives it another. The paper's differential evolution has s : T = 1 : 2, as
in Section 5.6 (s = 500, T = 1000). Both are scaled down so that s T is the budget, the initial population included.
jDE keeps its population of 100. All compute as a job does that says nothing, by rule, unless --precision names a number
format.

Rows are appended to rows.jsonl in the output folder as cells end; a second call goes on where the first was stopped.
Tables and plot are made from the rows of the cells that the arguments name. Rows know the settings of a search, not its
code: after a change of a search, take another output folder or delete its rows.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from evaluation_tables import write_tables
from safetensors.torch import load_file

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import train_here, train_once
from sfi_ray.data import DatasetSpec, dataset_info
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier, TrainingSettings, TuningRequest, build, read_state_dict, tune

# The statistics of CIFAR-10's training images, which the network was trained with.
CIFAR10 = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}


def evolution_of_the_paper(budget):
    population_size = max(4, round(math.sqrt(budget / 2)))
    return {
        "kind": "de",
        "population_size": population_size,
        "generations": max(0, budget // population_size - 1),
    }


CONTENDERS = {
    "de": evolution_of_the_paper,
    "jde": lambda budget: {"kind": "jde", "generations": max(0, budget // 100 - 1)},
    "sparse_rs": lambda budget: {"kind": "sparse_rs", "max_evaluations": budget},
    "map_elites": lambda budget: {"kind": "map_elites", "max_evaluations": budget},
    "elites_steady": lambda budget: {"kind": "map_elites", "max_evaluations": budget, "restart_after": None},
    "gradient": lambda budget: {"kind": "gradient", "max_evaluations": budget},
    "nevergrad-cma": lambda budget: {"kind": "nevergrad", "optimizer": "CMA", "max_evaluations": budget},
    "nevergrad-twopointsde": lambda budget: {
        "kind": "nevergrad",
        "optimizer": "TwoPointsDE",
        "max_evaluations": budget,
    },
}


class Printer(Reporter):
    def log(self, text):
        print(text, flush=True)


@dataclass(frozen=True)
class Arena:
    """A classifier and the data set it is for."""

    dataset: str
    classifier: Classifier
    class_names: tuple


def trained(dataset, options):
    """CNN_MP with the paper's recipe, from the training cache."""
    spec = DatasetSpec(name=dataset)
    info = dataset_info(spec)
    settings = TrainingSettings(preset="paper_mnist")
    card, folder = train_once(
        "cnn_mp",
        spec,
        settings,
        name=f"cnn_mp on {dataset}",
        device=options.device,
        trainer=train_here,
        reporter=Printer(),
    )
    module = build("cnn_mp", input_shape=info.shape, num_classes=info.num_classes)
    module.load_state_dict(read_state_dict(folder / "weights.safetensors"))
    classifier = classifier_of("cnn_mp", module, info.shape, options.device, mean=card.mean, std=card.std)
    return Arena(dataset, classifier, info.class_names)


def loaded(dataset, options):
    """VGG16 with the weights of a file."""
    info = dataset_info(DatasetSpec(name=dataset, shape=(3, 32, 32), class_names=tuple("0123456789")))
    module = build("vgg16", input_shape=info.shape, num_classes=10)
    module.load_state_dict(load_file(options.weights))  # copies float16 into float32
    return Arena(dataset, classifier_of("vgg16", module, info.shape, options.device, **CIFAR10), info.class_names)


def classifier_of(name, module, shape, device, *, mean, std):
    return Classifier(module, name=name, input_shape=shape, num_classes=10, mean=mean, std=std, device=device)


def computing(classifier, attack, k, options):
    """Returns a classifier that computes as a job's would."""
    request = TuningRequest(
        precision=options.precision,
        micro_batch=options.micro_batch,
        threads=options.threads,
        needs_gradients=attack.max_backward_passes > 0,
        ks=(k,),
        is_long=True,
    )
    return classifier.running(tune(classifier, request).runtime)


def tasks(arena, options):
    """Yields each contender with its settings and all its cells of one k."""
    channels = arena.classifier.input_shape[0]
    how = {"precision": options.precision, "batch": options.micro_batch}
    for k in options.ks:
        for name in options.contenders:
            budget = options.budget_of.get(name, options.budget)
            settings = read_attack_settings(CONTENDERS[name](budget))
            grid = Grid(
                classifiers=(GridClassifier(arena.classifier.name, arena.classifier.fingerprint),),
                backgrounds=tuple(parse_background(colour, channels) for colour in options.backgrounds),
                target_classes=tuple(enumerate(arena.class_names)),
                ks=(k,),
                replicates=options.seeds_of.get(name, options.seeds),
                seed=options.seed,
                method={**settings.model_dump(mode="json"), **how},
            )
            yield name, settings, list(grid.cells(range(len(grid))))


def row_of(arena, contender, finding):
    return {
        "cell_id": finding.cell.cell_id,
        "dataset": arena.dataset,
        "background": finding.cell.background.name,
        "k": finding.cell.k,
        "seed": finding.cell.replicate,
        "target": finding.cell.target_class,
        "contender": contender,
        "evaluations": finding.evaluations,
        "backward_passes": finding.backward_passes,
        "confidence": finding.confidence,
        "trace": [[point.evaluations, point.confidence] for point in finding.trace],
        "seconds": round(finding.seconds, 3),
        "error": finding.error,
    }


def unfinished(cells, rows):
    """Cells of the groups that lack a row; a group that was cut off is searched again as a whole, to the same rows."""
    missing = {(cell.background.name, cell.replicate) for cell in cells if cell.cell_id not in rows}
    return [cell for cell in cells if (cell.background.name, cell.replicate) in missing]


def search(arena, contender, settings, cells, options, file, seconds_between=30):
    """Searches cells, appending their rows, and says how far it has come."""
    attack = settings.build()
    classifier = computing(arena.classifier, attack, cells[0].k, options)
    total = attack.max_evaluations * len(cells)
    spent, started, told = 0, time.perf_counter(), time.perf_counter()
    for event in attack.search(classifier, cells, 0.9):
        if isinstance(event, Tick):
            spent += event.evaluations
            if time.perf_counter() - told >= seconds_between:
                told = time.perf_counter()
                print(f"  {spent / total:.0%} at {spent / (told - started):,.0f} evaluations/s", flush=True)
        else:
            # A row begins its line, so that one that was cut off spoils no other.
            file.write("\n" + json.dumps(row_of(arena, contender, event)))
    file.flush()
    seconds = time.perf_counter() - started
    print(f"  {seconds:.0f} s, {spent / seconds:,.0f} evaluations/s", flush=True)


def read_rows(path):
    """Returns the rows by cell, without a last one that was cut off."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["cell_id"]] = row
    return rows


def by_contender(text):
    """Reads ``NAME=N,...``."""
    numbers = dict(part.split("=") for part in text.split(","))
    if unknown := numbers.keys() - CONTENDERS.keys():
        raise argparse.ArgumentTypeError(
            f"no contender {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}"
        )
    return {name: int(number) for name, number in numbers.items()}


def parse_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: tuple(text.split(","))  # noqa: E731
    parser.add_argument("--datasets", type=names, default=("mnist", "fashion-mnist"), help="also cifar10")
    parser.add_argument("--weights", type=Path, help="safetensors file of a VGG16, for cifar10")
    usual = tuple(name for name in CONTENDERS if name != "elites_steady")  # which never restarts
    parser.add_argument("--contenders", type=names, default=usual, help=f"among {', '.join(CONTENDERS)}")
    parser.add_argument("--backgrounds", type=names, default=("black", "gray", "white"))
    parser.add_argument("--ks", type=lambda text: tuple(map(int, text.split(","))), default=(1, 5, 25))
    parser.add_argument("--seeds", type=int, default=3, help="repetitions of every cell")
    parser.add_argument("--seed", type=int, default=0, help="what the repetitions' own seeds are derived from")
    parser.add_argument("--budget", type=int, default=20_000, help="evaluations a class")
    parser.add_argument("--budget-of", type=by_contender, default={}, help="other budgets: NAME=N,...")
    parser.add_argument("--seeds-of", type=by_contender, default={}, help="other numbers of repetitions: NAME=N,...")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--micro-batch", type=int, help="images of a forward pass; by default the rule's")
    parser.add_argument("--device", default="cpu", help="of training and search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/evaluations"))
    parser.add_argument("--name", default="evaluations", help="of the report")
    options = parser.parse_args()
    if "cifar10" in options.datasets and not options.weights:
        parser.error("cifar10 needs --weights, a safetensors file of a VGG16")
    return options


def command_of(options):
    """Returns the command that made a report, with a stand-in for the weights' path."""
    words = ["uv run benchmarks/evaluations.py", f"--datasets {','.join(options.datasets)}"]
    words += ["--weights VGG16"] if options.weights else []
    words += [f"--contenders {','.join(options.contenders)}", f"--backgrounds {','.join(options.backgrounds)}"]
    words += [f"--ks {','.join(map(str, options.ks))}", f"--seeds {options.seeds}", f"--seed {options.seed}"]
    words += [f"--budget {options.budget}"]
    for word, given in (("--budget-of", options.budget_of), ("--seeds-of", options.seeds_of)):
        words += [f"{word} {','.join(f'{name}={number}' for name, number in given.items())}"] if given else []
    words += [f"--device {options.device}"] if options.device != "cpu" else []
    words += [f"--precision {options.precision}"] if options.precision != "auto" else []
    words += [f"--micro-batch {options.micro_batch}"] if options.micro_batch else []
    words += [f"--name {options.name}"]
    return " ".join(words)


def main():
    options = parse_options()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "rows.jsonl"
    rows = read_rows(path)
    wanted = []
    for dataset in options.datasets:
        arena = (loaded if dataset == "cifar10" else trained)(dataset, options)
        for contender, settings, cells in tasks(arena, options):
            wanted += [cell.cell_id for cell in cells]
            left = unfinished(cells, rows)
            print(f"{dataset} k={cells[0].k} {contender}: {len(left)} of {len(cells)} cells", flush=True)
            if left:
                with path.open("a") as file:
                    search(arena, contender, settings, left, options, file)
    rows = read_rows(path)
    write_tables(
        [rows[cell_id] for cell_id in wanted],
        name=options.name,
        description=__doc__,
        command=command_of(options),
    )


if __name__ == "__main__":
    main()
