"""What a search that looks into the classifier reaches, and what differential evolution does with as many evaluations.

    uv run benchmarks/gradient.py vgg16 WEIGHTS --backgrounds blue --targets 1 --k 5
    uv run benchmarks/gradient.py squeezenet WEIGHTS --backgrounds gray --targets 701 --k 10

WEIGHTS is a safetensors file: of this project's `vgg16` for CIFAR-10's ten classes, or of torchvision's
`squeezenet1_0` for ImageNet. The rows are printed as they come, not written to a file: what they say
depends on the weights.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torchvision
from safetensors.torch import load_file

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier, RuntimeConfig, build

NETWORKS = {
    "vgg16": {
        "make": lambda: build("vgg16", input_shape=(3, 32, 32), num_classes=10),
        "input_shape": (3, 32, 32),
        "num_classes": 10,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2470, 0.2435, 0.2616),
        "micro_batch": 32,
    },
    "squeezenet": {
        "make": torchvision.models.squeezenet1_0,
        "input_shape": (3, 224, 224),
        "num_classes": 1000,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "micro_batch": 8,
    },
}


def load_classifier(name, weights, precision, device="cpu", engine="torch"):
    described = dict(NETWORKS[name])
    micro_batch = described.pop("micro_batch") if device == "cpu" else None
    module = described.pop("make")()
    module.load_state_dict(load_file(weights))  # copies float16 into float32
    if engine == "torch":
        how = {"precision": precision, "micro_batch": micro_batch}
    else:
        how = {"runtime": RuntimeConfig(precision=precision, micro_batch=micro_batch, engine=engine)}
    return Classifier(module, name=name, device=device, **how, **described)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--backgrounds", default="gray", help="colours, separated by commas")
    parser.add_argument("--targets", default="0", help="class indices, separated by commas")
    parser.add_argument("--k", type=int, default=5)
    parser.add_argument("--replicates", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--attack", type=json.loads, default={}, help="settings as JSON, like a job's attack")
    parser.add_argument("--pixels", action="store_true", help="also print the altered pixels")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    classifier = load_classifier(options.network, options.weights, options.precision, options.device)
    targets = [int(target) for target in options.targets.split(",")]
    grid = Grid(
        classifiers=(GridClassifier(options.network, classifier.fingerprint),),
        backgrounds=tuple(parse_background(colour, 3) for colour in options.backgrounds.split(",")),
        target_classes=tuple((target, str(target)) for target in targets),
        ks=(options.k,),
        replicates=options.replicates,
        seed=options.seed,
        method={},
    )
    settings = read_attack_settings({"kind": "gradient", **options.attack})
    started = time.perf_counter()
    print("background target k replicate confidence background_confidence predicted forward backward seconds")
    for event in settings.build().search(classifier, list(grid.cells(range(len(grid)))), 0.9):
        if isinstance(event, Tick):
            continue
        cell = event.cell
        print(
            cell.background.name,
            cell.target_class,
            cell.k,
            cell.replicate,
            f"{event.confidence:.5f} {event.background_confidence:.5f}",
            event.predicted_class,
            event.evaluations,
            event.backward_passes,
            round(time.perf_counter() - started),
            flush=True,
        )
        if options.pixels:
            print(" ", [(pixel.row, pixel.col, pixel.value) for pixel in event.pixels], flush=True)


if __name__ == "__main__":
    main()
