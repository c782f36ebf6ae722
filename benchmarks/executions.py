"""How near runtime configurations come to float32, and what is chosen among them.

    uv run benchmarks/executions.py FOLDER ... [--threads N]

Each FOLDER holds a network that `sfi-ray train` wrote. On sparse images, what bfloat16 gives is compared with float32:
the largest difference of a log-probability, that as a share of the tolerance, and the largest of a confidence. Then a
configuration is chosen, as a launch would, for each `compute.precision`. It prints its rows: what they say depends on
the weights.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from sfi_ray.models import Classifier, TuningRequest, build, tune
from sfi_ray.models.runners.sparse_images import sparse_images
from sfi_ray.models.tuning.measurement import tolerance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for folder in options.folders:
        card = json.loads((folder / "card.json").read_text())
        shape, num_classes = tuple(card["input_shape"]), len(card["class_names"])
        module = build(card["architecture"], input_shape=shape, num_classes=num_classes)
        module.load_state_dict(load_file(folder / "weights.safetensors"))
        described = {"name": folder.name, "input_shape": shape, "num_classes": num_classes}
        rule = Classifier(module, mean=card["mean"], std=card["std"], **described)
        images = sparse_images(shape, 256, rule.device)
        reference = rule.reference_log_probs(images)
        other = rule.running(rule.runtime.changed(precision="bfloat16")).log_probs(images)
        off = (other - reference).abs()
        share = off / tolerance(reference)
        print(
            f"{folder.name}: bfloat16 is off by {off.max():.3f} nats, {share.max():.2f} of the tolerance, and by "
            f"{(other.exp() - reference.exp()).abs().max():.4f} of a confidence"
        )
        for precision in ("float32", "auto", "measured"):
            choice = tune(rule, TuningRequest(precision=precision, micro_batch=None, threads=options.threads))
            print(
                f"{folder.name}: {precision}: {choice.runtime.describe()}: {choice.rate:,.0f} images/s, "
                f"{choice.gain:.2f} times the rule, measured in {choice.seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
