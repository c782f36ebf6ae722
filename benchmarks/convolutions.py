"""What could be saved by not computing again what few altered pixels leave as it is in early layers.

    uv run benchmarks/convolutions.py WEIGHTS [--k K] [--micro-batch N] [--passes P]

WEIGHTS is a safetensors file of torchvision's `squeezenet1_0` for ImageNet. A candidate differs from its background in
k pixels, so in an early layer all but the places that see one of them are those of the bare background. For each layer
with weights, this measures which share of the places of its output does so, over random candidates, and which share of
the forward pass's time the layer takes. "At best" is what a forward pass would cost if every layer computed the changed
places alone, at the speed of the whole; "by bounding box" if it computed the smallest rectangle around them, which
keeps convolutions dense. Nothing is said of gathering, scattering and smaller products, which cost besides.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
import torchvision
from report import write_report
from safetensors.torch import load_file
from torch import nn

from sfi_ray.images import decode, paint

SHAPE = (3, 224, 224)


def candidates(count, k, generator):
    """Paints candidates on gray at random places, and as many bare backgrounds."""
    scale = torch.tensor([SHAPE[1], SHAPE[2], 1.0, 1.0, 1.0])
    genes = torch.rand(count, k, 5, generator=generator) * scale
    backgrounds = torch.full((count, 3), 128.0)
    images = paint(*decode(genes, *SHAPE[1:]), backgrounds, *SHAPE[1:])
    bare = paint(*decode(genes.clamp(max=0), *SHAPE[1:]), backgrounds, *SHAPE[1:])
    bare[:] = bare[:, :, -1:, -1:]
    return images - 0.5, bare - 0.5


def layers_of(network):
    """Returns the layers that compute, in their order, by name."""
    return {name: layer for name, layer in network.named_modules() if not list(layer.children())}


def outputs_of(network, images):
    """Returns what every layer gives."""
    found = {}
    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: found.__setitem__(name, output.clone()))
        for name, layer in layers_of(network).items()
    ]
    network(images)
    for hook in hooks:
        hook.remove()
    return found


def times_of(network, images, passes):
    """Returns the CPU's seconds that every layer takes, the fastest of some passes."""
    times, started = defaultdict(list), {}

    def before(layer, _inputs):
        started[layer] = time.process_time()

    hooks = []
    for name, layer in layers_of(network).items():
        hooks.append(layer.register_forward_pre_hook(before))
        hooks.append(
            layer.register_forward_hook(
                lambda layer, _inputs, _output, name=name: times[name].append(time.process_time() - started[layer])
            )
        )
    for _ in range(passes):
        network(images)
    for hook in hooks:
        hook.remove()
    return {name: min(spent) for name, spent in times.items()}


def shares_of(output, bare):
    """Returns the share of places that differ from the background's, and that of the rectangle around them."""
    if output.ndim < 4:
        return 1.0, 1.0
    changed = (output != bare).any(dim=1)
    boxes = []
    for one in changed:
        rows, cols = one.any(dim=1).nonzero(), one.any(dim=0).nonzero()
        boxes.append(float((rows.max() - rows.min() + 1) * (cols.max() - cols.min() + 1)) if len(rows) else 0.0)
    places = changed[0].numel()
    return float(changed.float().mean()), sum(boxes) / len(boxes) / places


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--passes", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = torchvision.models.squeezenet1_0()
    network.load_state_dict(load_file(options.weights))
    for layer in network.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # so that what a layer gave stays as it was
    network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    images, background = candidates(options.micro_batch, options.k, torch.Generator().manual_seed(0))
    came, bare = outputs_of(network, images), outputs_of(network, background)
    times = times_of(network, images, options.passes)
    total = sum(times.values())
    rows, best, boxed = [], 0.0, 0.0
    for name, spent in times.items():
        changed, box = shares_of(came[name], bare[name])
        best += changed * spent / total
        boxed += box * spent / total
        if isinstance(layers_of(network)[name], nn.Conv2d):
            rows.append(
                {
                    "convolution": name,
                    "places": "x".join(map(str, came[name].shape[2:])),
                    "share of the time": f"{spent / total:.3f}",
                    "changed places": f"{changed:.3f}",
                    "their rectangle": f"{box:.3f}",
                }
            )
    for what, share in (("all layers at best", best), ("all layers by bounding box", boxed)):
        rows.append({"convolution": what, "places": "", "share of the time": f"{share:.3f}"})
        rows[-1] |= {"changed places": "", "their rectangle": ""}
    write_report(
        "convolutions",
        __doc__,
        rows,
        command=f"uv run benchmarks/convolutions.py WEIGHTS --k {options.k} --micro-batch {options.micro_batch} "
        f"--passes {options.passes}",
    )


if __name__ == "__main__":
    main()
