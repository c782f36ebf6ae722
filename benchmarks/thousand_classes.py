"""How many of ImageNet's classes the shared search fools a classifier into, by evaluations, with and without gradients.

    uv run benchmarks/thousand_classes.py SQUEEZENET --backgrounds gray,black --k 10 --evaluations 50

SQUEEZENET is a safetensors file of torchvision's `squeezenet1_0`. All 1,000 classes of a background are one group.
Every image that is classified is looked at: a class counts as reached at 90 or 50 % when an image gave it that, and at
top-1 when an image was predicted as it. What is counted is in the precision of the search; the last table is of the
stored images in float32. One seed. Writes a csv as it goes on, and a table and a plot at the end of every search.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from gradient import load_classifier

from sfi_ray.attacks import Tick, read_attack_settings
from sfi_ray.grid import Grid, GridClassifier
from sfi_ray.images import parse_background

GOALS = {"at least 90 %": 0.9, "at least 50 %": 0.5}
SEARCHES = {"map_elites": {}, "with gradients": {"gradient_share": 0.5}}
COLUMNS = ["background", "search", "images a class", "gradients a class", *GOALS, "top-1", "mean confidence", "seconds"]


class Watch:
    """Looks at every image that a classifier classifies for a search."""

    def __init__(self, classifier, every):
        self.images = self.gradients = 0
        self.every = every
        self.best = torch.zeros(classifier.num_classes, device=classifier.device)
        self.is_top = torch.zeros(classifier.num_classes, dtype=torch.bool, device=classifier.device)
        log_probs, gradients = classifier.log_probs, classifier.gradients

        def watched_log_probs(images):
            told = log_probs(images)
            self.images += len(images)
            self.best = torch.maximum(self.best, told.exp().amax(dim=0))
            self.is_top[told.argmax(dim=1)] = True
            return told

        def watched_gradients(images, *arguments):
            self.images += len(images)
            self.gradients += len(images)
            return gradients(images, *arguments)

        classifier.log_probs, classifier.gradients = watched_log_probs, watched_gradients

    def row(self):
        best, is_top = self.best[:: self.every], self.is_top[:: self.every]
        count = len(best)
        return {
            "images a class": round(self.images / count, 1),
            "gradients a class": round(self.gradients / count, 1),
            **{goal: int((best >= value).sum()) for goal, value in GOALS.items()},
            "top-1": int(is_top.sum()),
            "mean confidence": f"{best.mean():.4f}",
        }


def search(options, background, name, settings, write):
    classifier = load_classifier("squeezenet", options.weights, options.precision, options.device, options.engine)
    targets = tuple((i, str(i)) for i in range(0, classifier.num_classes, options.every))
    grid = Grid(
        classifiers=(GridClassifier("squeezenet", classifier.fingerprint),),
        backgrounds=(parse_background(background, 3),),
        target_classes=targets,
        ks=(options.k,),
        replicates=1,
        seed=options.seed,
        method={},
    )
    watch, started, findings = Watch(classifier, options.every), time.perf_counter(), []
    step, due = max(1, options.evaluations // 25) * len(targets), 0
    described = {"background": background, "search": name}
    for event in read_attack_settings(settings).build().search(classifier, list(grid.cells(range(len(grid)))), 0.9):
        if not isinstance(event, Tick):
            findings.append(event)
        if watch.images >= due:
            due = watch.images + step
            write(described | watch.row() | {"seconds": round(time.perf_counter() - started)})
    write(described | watch.row() | {"seconds": round(time.perf_counter() - started)})
    confidence = torch.tensor([finding.confidence for finding in findings])
    return described | {
        **{goal: int((confidence >= value).sum()) for goal, value in GOALS.items()},
        "top-1": sum(finding.predicted_class == finding.cell.target_class for finding in findings),
        "mean confidence": f"{confidence.mean():.4f}",
    }


def markdown(rows, columns):
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join(lines + ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]) + "\n"


def draw(rows, path):
    goals = [*GOALS, "top-1"]
    figure, panels = plt.subplots(1, len(goals), figsize=(4 * len(goals), 3.4), layout="constrained")
    for goal, panel in zip(goals, panels, strict=True):
        for name in dict.fromkeys((row["background"], row["search"]) for row in rows):
            mine = [row for row in rows if (row["background"], row["search"]) == name]
            panel.plot([row["images a class"] for row in mine], [row[goal] for row in mine], label=", ".join(name))
        panel.set(xlabel="images classified a class", title=f"classes {goal}")
        panel.set_ylim(bottom=0)
    panels[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--backgrounds", default="gray,black", help="colours, separated by commas")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=50, help="images classified a class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engine", default="torch", choices=["torch", "openvino"], help="openvino: on the CPU only")
    parser.add_argument("--every", type=int, default=1, help="search for every so many-th class only")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--searches", type=json.loads, default={"map_elites": {}, "with gradients": {"gradient_share": 0.5}}
    )
    parser.add_argument("--output", type=Path, default=Path("runs/thousand_classes"), help="a folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    rows, stored = [], []
    with (options.output / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()

        def write(row):
            rows.append(row)
            writer.writerow(row)
            file.flush()
            print(row, flush=True)

        for background in options.backgrounds.split(","):
            for name, settings in options.searches.items():
                settings = {"kind": "map_elites", "max_evaluations": options.evaluations} | settings
                stored.append(search(options, background, name, settings, write))
                last = ["background", "search", *GOALS, "top-1", "mean confidence"]
                text = f"{markdown(rows, COLUMNS)}\nStored images, in float32:\n\n{markdown(stored, last)}"
                (options.output / "table.md").write_text(text)
                draw(rows, options.output / "plot.png")


if __name__ == "__main__":
    main()
