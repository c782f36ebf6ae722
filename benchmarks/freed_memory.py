"""What it brings that a process keeps the memory that a forward pass has freed (`sfi_ray.models.runners.allocator`).

    uv run benchmarks/freed_memory.py [--seconds S] [--rounds N]

Images a second of the bare forward pass in one thread and float32, in processes of their own that take turns: one
leaves the C library as it is, the other keeps freed memory. Weights are random. Page faults are those that the kernel
serves without a disk, each a page of memory that it clears.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torchvision
from report import write_report

from sfi_ray.models import Classifier, build
from sfi_ray.models import classifier as classifier_module

CASES = {
    "cnn_mp, 1x28x28, 128 images": ("cnn_mp", (1, 28, 28), 10, 128),
    "cnn_none, 1x28x28, 128 images": ("cnn_none", (1, 28, 28), 10, 128),
    "vgg16, 3x32x32, 32 images": ("vgg16", (3, 32, 32), 10, 32),
    "squeezenet1_0, 3x224x224, 8 images": ("squeezenet1_0", (3, 224, 224), 1000, 8),
}


def serve(case, is_kept, seconds):
    """Measures one case in this process and prints what it found as JSON."""
    name, shape, num_classes, batch = CASES[case]
    torch.set_num_threads(1)
    if not is_kept:
        classifier_module.keep_freed_memory = lambda: False
    is_zoo = name in ("cnn_mp", "cnn_none", "vgg16")
    module = build(name, input_shape=shape, num_classes=num_classes) if is_zoo else torchvision.models.get_model(name)
    classifier = Classifier(module, name=name, input_shape=shape, num_classes=num_classes, micro_batch=batch)
    images = torch.rand(batch, *shape)
    classifier.log_probs(images)
    faults, number, start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        classifier.log_probs(images)
        number += batch
    taken = time.perf_counter() - start
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    print(json.dumps([number / taken, faults / taken]))


def measured(case, is_kept, seconds):
    command = [sys.executable, __file__, "--serve", case, "--kept", str(int(is_kept)), "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, bool(options.kept), options.seconds)
        return
    rows = []
    for case in CASES:
        pairs = [[measured(case, is_kept, options.seconds) for is_kept in (False, True)] for _ in range(options.rounds)]
        ratios = [kept[0] / left[0] for left, kept in pairs]
        rows.append(
            {
                "network": case,
                "images/s, given back": f"{statistics.median(left[0] for left, _ in pairs):,.0f}",
                "kept": f"{statistics.median(kept[0] for _, kept in pairs):,.0f}",
                "kept over given back": f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                "page faults/s, given back": f"{statistics.median(left[1] for left, _ in pairs):,.0f}",
                "page faults/s, kept": f"{statistics.median(kept[1] for _, kept in pairs):,.0f}",
            }
        )
        print(rows[-1], flush=True)
    command = f"uv run benchmarks/freed_memory.py --seconds {options.seconds:g} --rounds {options.rounds}"
    write_report("freed_memory", __doc__, rows, command=command)


if __name__ == "__main__":
    main()
