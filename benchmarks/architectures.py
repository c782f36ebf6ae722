"""Which architectures resist SFIs, and is it pooling, as Section 5.6 of the paper says?

Three kinds of network, each with parts exchanged, trained alike.

    uv run benchmarks/architectures.py [--dataset fashion-mnist] [--seeds 3] [--output FOLDER]

- `CNN`: CNN_MP with 16, 32 and 32 channels, with max or average poolings.
- `ResNet`: a convolution, then three times a pooling and a residual block, of 16, 32 and 32 channels, with batch
  normalisation; at the end a pooling over the whole map, of the same kind.
- `ViT`: a vision transformer of three layers with 48 numbers for each patch of 4 x 4 pixels. The classes are read from
  the maximum or the mean over all patches.

Activations are ReLU or GELU, which is smooth. Each network is searched for a 5-SFI of every class on black, gray and
white by `map_elites`. No search ends early.

Rows are appended to rows.jsonl in the output folder as networks end; a second call goes on where the first was stopped.
"""

import argparse
import functools
import itertools
from pathlib import Path

import torch
from pooling import attacked, found, network, remembered, spread, trained
from report import write_report
from torch import nn

from sfi_ray.data import DatasetSpec, load_dataset

ACTIVATIONS = {"ReLU": nn.ReLU, "GELU": nn.GELU}
POOLINGS = {"max": (nn.MaxPool2d, nn.AdaptiveMaxPool2d), "average": (nn.AvgPool2d, nn.AdaptiveAvgPool2d)}
KINDS = [
    *itertools.product(["CNN", "ResNet"], ["max", "average"], ACTIVATIONS),
    *itertools.product(["ViT"], ["max", "average"], ["GELU"]),
]


def cnn(pooling, activation, info, seed):
    module = network(pooling, info, seed)
    for name, layer in list(module.named_children()):
        if isinstance(layer, nn.ReLU):
            setattr(module, name, ACTIVATIONS[activation]())
    return module


class Residual(nn.Module):
    """Two convolutions beside a shortcut: (B, C, H, W) to (B, C', H, W)."""

    def __init__(self, channels, out_channels, activation):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            activation(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)
        self.activation = activation()

    def forward(self, maps):
        return self.activation(self.body(maps) + self.shortcut(maps))


def resnet(pooling, activation, info, seed, widths=(16, 32, 32)):
    torch.manual_seed(seed)
    halve, whole = POOLINGS[pooling]
    act = ACTIVATIONS[activation]
    layers = [nn.Conv2d(info.channels, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), act()]
    for channels, out_channels in itertools.pairwise([widths[0], *widths]):
        layers += [halve(2, ceil_mode=True), Residual(channels, out_channels, act)]
    return nn.Sequential(*layers, whole(1), nn.Flatten(), nn.Linear(widths[-1], info.num_classes))


class Vit(nn.Module):
    """A vision transformer without a class token: (B, C, H, W) to logits."""

    def __init__(self, pooling, activation, info, seed, patch=4, width=48, depth=3):
        super().__init__()
        torch.manual_seed(seed)
        self.pooling = pooling
        self.patches = nn.Conv2d(info.channels, width, patch, stride=patch)
        self.places = nn.Parameter(0.02 * torch.randn((info.height // patch) * (info.width // patch), width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, activation.lower(), batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, info.num_classes)

    def forward(self, images):
        tokens = self.layers(self.patches(images).flatten(2).transpose(1, 2) + self.places)
        return self.head(tokens.amax(dim=1) if self.pooling == "max" else tokens.mean(dim=1))


BUILDERS = {"CNN": cnn, "ResNet": resnet, "ViT": Vit}


def table(rows):
    """Returns a line for each kind of network: means over seeds with their standard deviation, in percent."""
    lines = []
    for kind in dict.fromkeys(tuple(row["kind"]) for row in rows):
        of_it = [row for row in rows if tuple(row["kind"]) == kind]
        line = dict(zip(("network", "pooling", "activation"), kind, strict=True)) | {"seeds": len(of_it)}
        line["accuracy, %"] = spread([row["accuracy"] for row in of_it])
        lines.append(line | found(of_it))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="fashion-mnist", choices=["fashion-mnist", "cifar10"])
    parser.add_argument("--seeds", type=int, default=3, help="networks of each kind")
    parser.add_argument("--budget", type=int, default=2000, help="images a class")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/architectures"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = load_dataset(DatasetSpec(name=options.dataset))
    info = dataset.info

    def measure(kind, seed):
        architecture, pooling, activation = kind
        module = BUILDERS[architecture](pooling, activation, info, seed)
        classifier, natural = trained(module, dataset, seed, options.threads)
        return {"accuracy": natural.accuracy, "confidences": attacked(classifier, info, seed, options.budget)}

    rows = []
    for seed, kind in itertools.product(range(options.seeds), map(list, KINDS)):
        place = {"dataset": options.dataset, "seed": seed, "kind": kind, "budget": options.budget}
        rows.append(remembered(options.output / "rows.jsonl", place, functools.partial(measure, kind, seed)))
        print(table(rows[-1:])[0], flush=True)
    command = f"uv run benchmarks/architectures.py --dataset {options.dataset} --seeds {options.seeds}"
    name = f"architectures_{options.dataset}"
    write_report(name, __doc__, table(rows), command=f"{command} --budget {options.budget}")


if __name__ == "__main__":
    main()
