"""What running the first layers at altered pixels only brings over running whole images, measured in turn in one run.

    uv run benchmarks/patches.py [--weights FILE] [--cases NAME:CxHxW,...] [--ks K,...] [--seconds S] [--rounds R]

For each network, number of altered pixels and engine, in bfloat16 with one thread: images a second of
`Classifier.sparse_log_probs`, painting included, both ways, in the micro-batch by rule; rounds alternate, and seconds
are the CPU's. FILE holds weights of torchvision's `squeezenet1_0` for ImageNet; all other networks have random ones,
which does not change their speed. "Off float32" is the largest difference of a log-probability over the stated
tolerance, which must be below 1 for either to be taken. Pixels are near one another in every second image, on four
backgrounds.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch
from report import write_report
from safetensors.torch import load_file
from throughput import cases, make

from sfi_ray.images import paint
from sfi_ray.models import Classifier, openvino_version
from sfi_ray.models.runners.sparse_images import close_pixels
from sfi_ray.models.tuning.measurement import tolerance

CASES = (
    "cnn_mp:1x28x28,cnn_none:1x28x28,cnn_mp:3x32x32,vgg16:3x32x32,torchvision-squeezenet1_0:3x224x224,"
    "torchvision-squeezenet1_1:3x224x224,torchvision-resnet18:3x224x224,torchvision-resnet50:3x224x224,"
    "torchvision-mobilenet_v2:3x224x224"
)


def rate(classifier, candidates, seconds):
    """Returns images a second of the CPU's time."""
    count, started = 0, time.thread_time()
    while (spent := time.thread_time() - started) < seconds:
        classifier.sparse_log_probs(*candidates)
        count += len(candidates[0])
    return count / spent


def off(log_probs, reference):
    """Returns the largest difference over the tolerance."""
    return float(((log_probs - reference).abs() / tolerance(reference)).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--cases", default=CASES, help="networks of the zoo, or torchvision-NAME, with their input")
    parser.add_argument("--ks", default="1,5,10,25")
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    engines = ["torch", *(["openvino"] if openvino_version() else [])]
    for name, shape in cases(options.cases):
        module, num_classes = make(name, shape)
        if options.weights and name == "torchvision-squeezenet1_0":
            module.load_state_dict(load_file(options.weights))
        statistics_of = {"mean": [0.45] * shape[0], "std": [0.25] * shape[0]}
        rule = Classifier(module, name=name, input_shape=shape, num_classes=num_classes, **statistics_of)
        for engine, k in itertools.product(engines, map(int, options.ks.split(","))):
            runtime = rule.runtime.changed(precision="bfloat16", engine=engine)
            whole, patched = (rule.running(runtime.changed(reuses_background=reuses)) for reuses in (False, True))
            candidates = close_pixels(shape, 2 * rule.micro_batch, k)
            reference = rule.reference_log_probs(paint(*candidates, *shape[1:]))
            offs = [off(one.sparse_log_probs(*candidates), reference) for one in (whole, patched)]
            rounds = [
                [rate(one, candidates, options.seconds) for one in (whole, patched)] for _ in range(options.rounds)
            ]
            gains = [two / one for one, two in rounds]
            rows.append(
                {
                    "network": f"{name} {'x'.join(map(str, shape))}",
                    "engine": engine,
                    "k": k,
                    "whole images/s": round(statistics.median(one for one, _ in rounds)),
                    "at altered pixels": round(statistics.median(two for _, two in rounds)),
                    "times as fast": f"{statistics.median(gains):.2f}",
                    "range": f"{min(gains):.2f} to {max(gains):.2f}",
                    "off float32, whole": f"{offs[0]:.3f}",
                    "off float32, at altered pixels": f"{offs[1]:.3f}",
                }
            )
            print(rows[-1], flush=True)
    write_report(
        "patches",
        __doc__,
        rows,
        command="uv run benchmarks/patches.py"
        + " --weights WEIGHTS" * bool(options.weights)
        + f" --cases {options.cases} --ks {options.ks} --seconds {options.seconds:g} --rounds {options.rounds}",
    )


if __name__ == "__main__":
    main()
