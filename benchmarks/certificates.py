"""How near certificates come to what searches find, on trained networks of the zoo.

    uv run benchmarks/certificates.py FOLDER [FOLDER ...] [--backgrounds black,gray,white] [--ks 1,2,3,5,10]

A folder holds weights.safetensors and card.json, as `sfi-ray train` writes them. For each background and k it bounds
the confidence of every class from above, and searches every class with `map_elites` led by gradients for a bound from
below. A class is decided at 50 % when it was found above, or is certified to stay below. It prints its rows.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from report import table

from sfi_ray.attacks import read_attack_settings
from sfi_ray.attacks.sweep import sweep
from sfi_ray.images import parse_background
from sfi_ray.models import Classifier, build, load_into, read_card, read_state_dict
from sfi_ray.theory import certify


def rows_of(folder, options):
    card = read_card(folder)
    num_classes = len(card.class_names)
    module = build(card.architecture, input_shape=card.input_shape, num_classes=num_classes)
    load_into(module, read_state_dict(folder / "weights.safetensors"), str(folder))
    module.eval()
    classifier = Classifier(
        module,
        name=card.architecture,
        input_shape=card.input_shape,
        num_classes=num_classes,
        mean=card.mean,
        std=card.std,
        micro_batch=64,
    )
    settings = read_attack_settings(
        {"kind": "map_elites", "max_evaluations": options.evaluations, "gradient_share": 0.5}
    )
    ks = [int(k) for k in options.ks.split(",")]
    for name in options.backgrounds.split(","):
        background = parse_background(name, card.input_shape[0])
        for k in ks:
            started = time.perf_counter()
            certificate = certify(
                module,
                input_shape=card.input_shape,
                background=[value / 255 for value in background.value],
                ks=k,
                mean=card.mean,
                std=card.std,
            )
            seconds = time.perf_counter() - started
            upper = certificate.confidences[0]
            found = sweep(classifier, settings, backgrounds=[background], target_classes=range(num_classes), ks=[k])
            lower = np.array([finding.confidence for finding in found])
            assert (lower <= upper + 1e-5).all(), "a search exceeded its certificate"
            gap = log_odds(upper) - log_odds(lower)
            yield {
                "network": card.architecture,
                "background": name,
                "k": k,
                "found above 50 %": int((lower > 0.5).sum()),
                "certified below 50 %": int((upper < 0.5).sum()),
                "undecided": int(((lower <= 0.5) & (upper >= 0.5)).sum()),
                "certified below 1 %": int((upper < 0.01).sum()),
                "gap in log-odds, median": f"{np.median(gap):.2f}",
                "largest": f"{gap.max():.2f}",
                "seconds": f"{seconds:.1f}",
            }


def log_odds(confidence):
    bounded = np.clip(confidence, 1e-12, 1 - 1e-12)
    return np.log(bounded) - np.log1p(-bounded)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--backgrounds", default="black,gray,white")
    parser.add_argument("--ks", default="1,2,3,5,10")
    parser.add_argument("--evaluations", type=int, default=300, help="images classified for each class at most")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for folder in options.folders:
        for row in rows_of(folder, options):
            rows.append(row)
            print(row, flush=True)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
