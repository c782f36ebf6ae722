"""How do the confidence of SFIs and k scale with the number of pixels of an image? The paper leaves it open.

One network on images of three sizes.

    uv run benchmarks/resolution.py [--sides 14,28,56] [--ks 1,4,16,64] [--seeds 3] [--output FOLDER]

The images of Fashion-MNIST are resized (bilinear, antialiased), and CNN_MP with 16, 32 and 32 channels is trained on
each size alike. `map_elites` then searches every class on black, gray and white for each k. From one side to the next
there are four times as many pixels, and from one k to the next four times as many altered ones. So cells on a diagonal
of the table alter the same share of the image.

Rows are appended to rows.jsonl in the output folder as networks end; a second call goes on where the first was stopped.
"""

import argparse
import functools
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from pooling import attacked, network, remembered, spread, trained
from report import write_report
from torch.nn import functional

from sfi_ray.data import DatasetSpec, load_dataset


def resized(dataset, side):
    """Returns a data set whose images have another side."""
    if side == dataset.info.height:
        return dataset

    def sized(images):
        parts = [
            functional.interpolate(part.float(), (side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
            for part in images.split(5000)
        ]
        return torch.cat(parts)

    return replace(
        dataset,
        info=replace(dataset.info, height=side, width=side),
        train_images=sized(dataset.train_images),
        test_images=sized(dataset.test_images),
    )


def table(rows, ks):
    """Returns a line for each side: means over seeds with their standard deviation, in percent."""
    lines = []
    for side in dict.fromkeys(row["side"] for row in rows):
        of_it = [row for row in rows if row["side"] == side]
        line = {"side": side, "pixels": side**2, "seeds": len(of_it)}
        line["accuracy, %"] = spread([row["accuracy"] for row in of_it])
        for k in ks:
            means = [
                statistics.mean(value for cells in row["confidences"][str(k)].values() for value in cells)
                for row in of_it
            ]
            line[f"k = {k}: mean confidence, %"] = spread(means)
        lines.append(line)
    return lines


def main():
    def numbers(text):
        return [int(part) for part in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=numbers, default=[14, 28, 56])
    parser.add_argument("--ks", type=numbers, default=[1, 4, 16, 64])
    parser.add_argument("--seeds", type=int, default=3, help="networks of each size")
    parser.add_argument("--budget", type=int, default=1000, help="images a class")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/resolution"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    natural = load_dataset(DatasetSpec(name="fashion-mnist"))
    rows = []
    for side in options.sides:
        dataset = resized(natural, side)

        def measure(seed, dataset=dataset):
            module = network("max", dataset.info, seed)
            classifier, measured = trained(module, dataset, seed, options.threads)
            found = {str(k): attacked(classifier, dataset.info, seed, options.budget, k) for k in options.ks}
            return {"accuracy": measured.accuracy, "confidences": found}

        for seed in range(options.seeds):
            place = {"side": side, "seed": seed, "budget": options.budget, "ks": options.ks}
            rows.append(remembered(options.output / "rows.jsonl", place, functools.partial(measure, seed)))
            print(table(rows[-1:], options.ks)[0], flush=True)
    sides, ks = (",".join(map(str, chosen)) for chosen in (options.sides, options.ks))
    command = f"uv run benchmarks/resolution.py --sides {sides} --ks {ks} --seeds {options.seeds}"
    write_report("resolution", __doc__, table(rows, options.ks), command=f"{command} --budget {options.budget}")


if __name__ == "__main__":
    main()
