"""Images a second while learning, in float32 and in bfloat16, measured in turn in one run.

    uv run benchmarks/training.py [--threads N] [--seconds S] [--rounds R] [--batch-size B] [--networks NAME ...]

Each network learns random images of the size it is for through `Learner`, as `sfi-ray train` does, with SGD: choosing
the batch, normalising, forward, backward, step. Rounds alternate between the two precisions, so that a machine whose
speed drifts drifts for both; the ratio is the median over rounds. On a CPU with one thread a second is one of CPU time,
which other programs disturb less.
"""

import argparse
import statistics
import time

import torch
from report import write_report

from sfi_ray.data.dataset import DatasetInfo, ImageDataset
from sfi_ray.models import TrainingSettings, build
from sfi_ray.models.runners.device import in_layout
from sfi_ray.models.training.learner import Learner

SHAPES = {
    "mlp": (1, 28, 28),
    "cnn_mp": (1, 28, 28),
    "cnn_none": (1, 28, 28),
    "capsnet": (1, 28, 28),
    "vgg16": (3, 32, 32),
    "nin": (3, 32, 32),
    "resnet50": (3, 32, 32),
}


class Contender:
    """One network in one precision, learning on and on.

    Args:
        name: Network of the zoo.
        precision: ``float32`` or ``bfloat16``.
        options: Of the command line.
        device: Where it learns.
    """

    def __init__(self, name, precision, options, device):
        shape = SHAPES[name]
        images = torch.randint(0, 256, (4096, *shape), dtype=torch.uint8)
        labels = torch.randint(0, 10, (4096,))
        info = DatasetInfo("random", *shape, tuple("0123456789"))
        dataset = ImageDataset(info, images, labels, images[:1], labels[:1])
        settings = TrainingSettings(
            optimizer="sgd",
            learning_rate=1e-6,
            precision=precision,
            epochs=10**9,
            batch_size=options.batch_size,
            threads=options.threads,
        )
        module = in_layout(build(name, input_shape=shape, num_classes=10), torch.channels_last)
        self._items = Learner(module, dataset, settings, device).run(self._is_over)
        self._num_images, self._until, self._num_steps = options.batch_size, 0.0, 0
        self._clock = time.process_time if device == "cpu" and options.threads == 1 else time.perf_counter

    def rate(self, seconds):
        """Learns for a while, at least one step, and returns images a second."""
        started = self._clock()
        self._until, self._num_steps = started + seconds, 0
        while not self._num_steps or self._clock() < self._until:
            next(self._items)
        return self._num_steps * self._num_images / (self._clock() - started)

    def _is_over(self):
        self._num_steps += 1
        return self._clock() >= self._until


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--networks", nargs="+", default=list(SHAPES), choices=SHAPES)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for name in options.networks:
        contenders = [Contender(name, precision, options, device) for precision in ("float32", "bfloat16")]
        for contender in contenders:
            contender.rate(0)
        rounds = [tuple(contender.rate(options.seconds) for contender in contenders) for _ in range(options.rounds)]
        ratios = [bfloat16 / float32 for float32, bfloat16 in rounds]
        rows.append(
            {
                "network": f"{name} {'x'.join(map(str, SHAPES[name]))}",
                "float32 images/s": round(statistics.median(rate for rate, _ in rounds)),
                "bfloat16 images/s": round(statistics.median(rate for _, rate in rounds)),
                "bfloat16 over float32": f"{statistics.median(ratios):.2f}",
                "range": f"{min(ratios):.2f} to {max(ratios):.2f}",
            }
        )
        print(rows[-1], flush=True)
    write_report(
        "training",
        __doc__,
        rows,
        command=f"uv run benchmarks/training.py --threads {options.threads} --seconds {options.seconds:g} "
        f"--rounds {options.rounds} --batch-size {options.batch_size}",
    )


if __name__ == "__main__":
    main()
