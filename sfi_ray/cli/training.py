"""The command `sfi-ray train`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfi_ray.cli.arguments import Device, argument, number, option, output_option
from sfi_ray.cli.exits import explaining
from sfi_ray.cli.printing import echo, print_facts

if TYPE_CHECKING:
    from sfi_ray.data import DatasetSpec
    from sfi_ray.models import TrainingSettings


Network = Annotated[
    str,
    argument(
        "Network of the zoo: mlp, cnn_mp, cnn_none, capsnet, vgg16, nin or resnet50. With --job, the name of one of "
        "the job's classifiers.",
        metavar="NETWORK",
    ),
]
DatasetName = Annotated[
    str | None, argument("Name of the data set, such as digits or mnist; not with --job.", metavar="[DATASET]")
]
NetworkOutput = Annotated[Path, output_option("Folder for weights and card.")]
SettingsJob = Annotated[
    Path | None,
    option("Job file that gives the data set and the settings. By default none.", metavar="JOB"),
]
DataFolder = Annotated[
    str | None, option("Folder of the data set's parquet files. By default the name decides.", metavar="FOLDER")
]
Preset = Annotated[
    str | None,
    option(
        "Settings to start from: paper_mnist, paper_cifar10 or fast_cifar10; other options change them. By default "
        "none.",
        metavar="NAME",
    ),
]
Optimizer = Annotated[str | None, option("Optimizer: adam or sgd. By default adam.", metavar="adam|sgd")]
LearningRate = Annotated[float | None, number("Learning rate, the highest one of a schedule. By default 0.001.")]
Momentum = Annotated[float | None, number("Momentum of sgd, in [0, 1). By default 0.9.")]
WeightDecay = Annotated[float | None, number("L2 penalty on the weights. By default 0.")]
Schedule = Annotated[
    str | None, option("Learning rate over time. By default constant.", metavar="constant|cosine|one_cycle")
]
Augmentation = Annotated[
    str | None,
    option(
        "Changes to training images: none, or random flips and shifts, which suit photographs but not digits. By "
        "default none.",
        metavar="none|flip_crop",
    ),
]
Precision = Annotated[
    str | None,
    option(
        "Number format of the layers' arithmetic; auto is bfloat16 where the hardware has it. By default float32.",
        metavar="auto|float32|bfloat16",
    ),
]
Epochs = Annotated[int | None, number("Passes over the training images. By default enough for the data set.")]
BatchSize = Annotated[int | None, number("Images of one optimizer step. By default 128.")]
Seed = Annotated[int | None, number("Seed of weights, order of images, augmentation, and dropout. By default 0.")]
Threads = Annotated[int | None, number("CPU threads. By default one for each core.")]


def train(
    network: Network,
    dataset: DatasetName = None,
    output: NetworkOutput = ...,  # type: ignore[assignment]
    job: SettingsJob = None,
    path: DataFolder = None,
    device: Device = "auto",
    preset: Preset = None,
    optimizer: Optimizer = None,
    learning_rate: LearningRate = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    schedule: Schedule = None,
    augmentation: Augmentation = None,
    precision: Precision = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """Train a classifier and store its weights with a card.

    The card has data set, accuracy, settings and fingerprint. With --job, options override the job's settings. The
    cache provides a network that was trained before from the same settings and data. After an interruption, the same
    command resumes from the checkpoint in the cache, and the weights are the same as without the interruption.
    """
    from sfi_ray.cluster.console import ConsoleReporter
    from sfi_ray.cluster.training_cache import train_and_save

    if (job is None) == (dataset is None) or (job and path):
        raise typer.BadParameter("give either a data set (with or without --path) or --job")
    given = {
        "preset": preset,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "augmentation": augmentation,
        "precision": precision,
        "epochs": epochs,
        "batch_size": batch_size,
        "seed": seed,
        "threads": threads,
    }
    with explaining("stopped; the last checkpoint is kept: run the same command again to go on"):
        architecture, spec, said = _of_job(job, network) if job else _of_dataset(network, str(dataset), path)
        settings = _settings(said, {key: value for key, value in given.items() if value is not None})
        with contextlib.closing(ConsoleReporter()) as reporter:
            card = train_and_save(architecture, spec, settings, output, reporter, device)
    echo(f"{architecture} on {card.dataset}: held-out accuracy {card.test_accuracy:.1%}")
    print_facts({"weights": output / "weights.safetensors", "card": output / "card.json"}, width=9)


def _of_dataset(network: str, name: str, path: str | None) -> tuple[str, DatasetSpec, dict[str, Any]]:
    """Returns a network of the zoo with a data set, and no settings."""
    from sfi_ray.data import DatasetSpec

    return network, DatasetSpec(name=name, path=path), {}


def _of_job(job: Path, classifier: str) -> tuple[str, DatasetSpec, dict[str, Any]]:
    """Returns the network of a classifier, its data set and its settings, as a job has them."""
    from sfi_ray.bundled import job_file
    from sfi_ray.job import load_job

    loaded = load_job(job_file(job))
    by_name = {spec.name: spec for spec in loaded.classifiers}
    if classifier not in by_name:
        raise typer.BadParameter(f"the job has no classifier '{classifier}', only {', '.join(by_name)}")
    spec = by_name[classifier]
    return spec.network, loaded.dataset, spec.training.model_dump()


def _settings(said: Mapping[str, object], given: Mapping[str, object]) -> TrainingSettings:
    """Merges the settings of a job, a preset and options; options override a preset, and a preset the job.

    Raises:
        typer.BadParameter: An option is wrong.
    """
    from pydantic import ValidationError

    from sfi_ray.models import TRAINING_PRESETS, TrainingSettings

    start = TRAINING_PRESETS.get(str(given.get("preset")), {})
    try:
        return TrainingSettings.model_validate({**said, **start, **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        message = first["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(
            message if name == "preset" else f"{message}, got {given[name]!r}",
            param_hint=f"--{name.replace('_', '-')}",
        ) from error
