"""What a job will take: cells, shards, evaluations, memory and time, without searching anything."""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch

from sfi_ray.attacks import Attack
from sfi_ray.attacks.run import space_k
from sfi_ray.data import DatasetInfo
from sfi_ray.grid import Grid, num_shards
from sfi_ray.job import Job
from sfi_ray.models import Classifier, TuningRequest, default_micro_batch, stated_precision, tune
from sfi_ray.models.runners.sparse_images import close_pixels


def choose_cells_per_shard(
    grid: Grid,
    attack: Attack,
    num_actors: int,
    micro_batch: int,
    wanted: int | None = None,
    *,
    evaluations_a_shard: int = 1_000_000,
    shards_an_actor: int = 16,
    most: int = 100_000,
) -> int:
    """Chooses the size of shards: enough to keep a device full, few enough for every actor to get some.

    Args:
        grid: The cells.
        attack: How they are searched.
        num_actors: Actors that search.
        micro_batch: Images of one forward pass.
        wanted: What the job says; None lets this function choose.
        evaluations_a_shard: Evaluations from which on a shard is worth its overhead.
        shards_an_actor: Shards for each actor, so that a slow one does not hold up the end. There are fewer where they
            would become so small that a device stays empty.
        most: Cells of a shard at most.
    """
    block = grid.block(shares_classes=attack.shares_classes, shares_ks=attack.shares_ks)
    if wanted is not None:
        return max(wanted, block)
    filling = max(2 * attack.num_slots(micro_batch), math.ceil(evaluations_a_shard / attack.max_evaluations))
    small = max(1, math.ceil(len(grid) / (shards_an_actor * num_actors)), _least_cells(attack, micro_batch))
    fair = min(small, math.ceil(len(grid) / num_actors))
    return max(block, min(filling, fair, most))


def _least_cells(attack: Attack, micro_batch: int) -> int:
    """Returns the cells with which a generation fills a sixteenth of the micro-batches it should."""
    return math.ceil(attack.num_slots(micro_batch) / 16)


@dataclass(frozen=True, slots=True)
class ShardSizes:
    """What the sizes of shards may be while they follow the measured speed of workers.

    Attributes:
        first: Cells of a shard as long as no speed is known.
        least: Cells of a shard at least, unless fewer are left; a device would stay empty with fewer.
        most: Cells of a shard at most.
        block: Cells that must not be parted; sizes are its multiples.
        is_fixed: Whether all shards have the first size.
    """

    first: int
    least: int
    most: int
    block: int
    is_fixed: bool


def shard_sizes(
    grid: Grid,
    attack: Attack,
    num_actors: int,
    micro_batch: int,
    wanted: int | None = None,
    *,
    first_over_least: int = 4,
    most: int = 100_000,
) -> ShardSizes:
    """Chooses what the sizes of shards may be, with the arguments of `choose_cells_per_shard`.

    The first shard has `first_over_least` times the least size. It is small, so that a far slower device shows soon.
    """
    block = grid.block(shares_classes=attack.shares_classes, shares_ks=attack.shares_ks)
    chosen = choose_cells_per_shard(grid, attack, num_actors, micro_batch, wanted, most=most)
    least = min(chosen, _least_cells(attack, micro_batch))
    first = chosen if wanted else min(chosen, first_over_least * least)
    return ShardSizes(max(block, first // block * block), max(block, least), most, block, wanted is not None)


def tuning_request(job: Job, grid: Grid, attack: Attack, input_shape: tuple[int, int, int]) -> TuningRequest | None:
    """Says what is to be measured of every classifier before a job is searched; None where the rule decides.

    Args:
        job: The job.
        grid: Its cells.
        attack: How they are searched.
        input_shape: ``(C, H, W)`` of an image.
    """
    compute = job.compute
    if job.attack.looks_inside:
        # What is compared between runtime configurations is what a network returns, and its gradients.
        return None
    elements = grid.cells_per_classifier * attack.max_evaluations * math.prod(input_shape)
    is_worth_measuring = elements >= 2**29  # a search of half a minute or more
    is_worth_compiling = elements >= 2**34  # which every actor has to do: ten minutes or more
    is_settled = compute.precision != "auto" and compute.micro_batch is not None
    if compute.precision != "measured" and (is_settled or not is_worth_measuring):
        return None
    return TuningRequest(
        precision=compute.precision,
        micro_batch=compute.micro_batch,
        threads=compute.threads,
        needs_gradients=attack.max_backward_passes > 0,
        most_images=_filled(grid, attack),
        images_together=images_together(grid, attack),
        ks=_few_ks(grid) if is_worth_measuring else (),
        is_long=compute.precision == "measured" and is_worth_compiling,
    )


def _few_ks(grid: Grid, most_ks: int = 8, most_backgrounds: int = 16) -> tuple[int, ...]:
    """Returns the numbers of altered pixels; none where they or the backgrounds are too many to prepare for each."""
    if grid.ks is None or len(grid.ks) > most_ks or len(grid.backgrounds) > most_backgrounds:
        return ()
    return grid.ks


def images_together(grid: Grid, attack: Attack) -> int:
    """Returns the smallest power of two that holds a generation of cells searched together, 2**20 at most."""
    return min(2**20, 1 << (_cells_together(grid, attack) * attack.num_candidates - 1).bit_length())


def _filled(grid: Grid, attack: Attack, least_filling: float = 1 / 8, most_images: int = 2**14) -> int:
    """Returns the largest micro-batch, a power of two, of which a generation of cells searched together fills enough.

    Args:
        grid: The cells.
        attack: How they are searched.
        least_filling: The part of a micro-batch that they have to fill.
        most_images: Images of the largest micro-batch.
    """
    together = _cells_together(grid, attack)
    size = 1
    while size < most_images and attack.num_slots(2 * size) <= together / least_filling:
        size *= 2
    return size


def _cells_together(grid: Grid, attack: Attack) -> int:
    """Returns the cells of a classifier that are searched in the same generations: those of one k, unless k mix."""
    mixes = attack.mixes_ks and grid.num_targets > 1
    drawn = 1 if mixes else grid.k_range[1] - grid.k_range[0] + 1
    return max(1, grid.cells_per_classifier // (len(grid.ks) if grid.ks else drawn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a job will take.

    Attributes:
        num_cells: Cells.
        num_groups: Groups: cells of one classifier, background and k.
        num_shards: Shards on `num_actors` actors.
        num_actors: Actors that there are.
        num_busy: Those of them that get a shard.
        max_evaluations: Images classified if no cell stops early.
        rates: Evaluations a second of one actor, proposing included, by classifier, as measured here.
        seconds: Time until the last actor has searched its last shard if no cell stops early.
        candidate_bytes: Memory of the candidates of one actor.
        classifier_bytes: Memory of the largest classifier and of one forward pass of it.
    """

    num_cells: int
    num_groups: int
    num_shards: int
    num_actors: int
    num_busy: int
    max_evaluations: int
    rates: dict[str, float]
    seconds: float
    candidate_bytes: int
    classifier_bytes: int


def make_plan(
    job: Job, info: DatasetInfo, grid: Grid, classifiers: Mapping[str, Classifier] = MappingProxyType({})
) -> Plan:
    """Plans a job, measuring how fast candidates are classified and proposed.

    It takes a moment for each classifier, or about 20 seconds where a launch would choose how it computes.

    Args:
        job: The job.
        info: Its data set.
        grid: Its cells.
        classifiers: Those that are at hand, by name; others are built with the weights that they start from.

    Raises:
        InputError: A classifier's network does not exist or does not take the data set's images, or the attack names
            what does not exist here.
    """
    job.attack.check()
    attack = job.attack.build()
    num_actors = job.cluster.max_actors or max(1, (os.cpu_count() or 1) // job.compute.threads)
    device = "cuda" if job.compute.device != "cpu" and torch.cuda.is_available() else "cpu"
    proposing = attack.proposal_rate(info.shape, grid.max_k)
    request = tuning_request(job, grid, attack, info.shape)
    pixels = request.mean_k if request else 1
    rates, footprints, micro_batches = {}, [], []
    for spec in job.classifiers:
        if (known := classifiers.get(spec.name)) is None:
            module = spec.source.build_module(info.shape, info.num_classes)
            known = Classifier(
                module, name=spec.name, input_shape=info.shape, num_classes=info.num_classes, is_trained=False
            )
        classifier = Classifier.from_payload(
            known.to_payload(spec.source),
            device=device,
            precision=stated_precision(job.compute.precision),
            micro_batch=job.compute.micro_batch
            or known.batch_size
            or default_micro_batch(info.shape, device, images_together(grid, attack)),
        )
        if request and not classifier.is_black_box:
            classifier = classifier.running(tune(classifier, request).runtime)
        micro_batches.append(classifier.micro_batch)
        rates[spec.name] = 1 / (1 / forward_rate(classifier, job.compute.threads, pixels) + 1 / proposing)
        footprints.append(_footprint(classifier))
    # A gradient costs about as much again as the forward pass below it.
    a_cell = [(attack.max_evaluations + attack.max_backward_passes) / rate for rate in rates.values()]
    micro_batch = min(micro_batches)
    slots = attack.num_slots(max(micro_batches))
    widest = space_k(grid.k_range) if attack.mixes_ks and grid.ks is None else grid.max_k
    candidate_bytes = slots * attack.slot_bytes(info.shape, widest)
    per_shard = choose_cells_per_shard(grid, attack, num_actors, micro_batch, job.cluster.cells_per_shard)
    sizes = shard_sizes(grid, attack, num_actors, micro_batch, job.cluster.cells_per_shard)
    # Sizes that follow the measured speed become the least towards the end.
    block = sizes.first if sizes.is_fixed else sizes.least
    num_busy, seconds = schedule(grid.cells_per_classifier, block, a_cell, num_actors)
    return Plan(
        num_cells=len(grid),
        num_groups=grid.num_groups,
        num_shards=num_shards(grid, per_shard, sizes.block),
        num_actors=num_actors,
        num_busy=num_busy,
        max_evaluations=len(grid) * attack.max_evaluations,
        rates=rates,
        seconds=seconds,
        candidate_bytes=candidate_bytes,
        classifier_bytes=max(footprints),
    )


def schedule(
    cells_per_classifier: int,
    block: int,
    seconds_a_cell: Sequence[float],
    num_actors: int,
    most_laid_out: int = 100_000,
) -> tuple[int, float]:
    """Lays out which of equal actors searches what, as the driver gives it out.

    Whoever is free takes the next block of cells of the classifier that it searched last, else of the one that fewest
    actors have been given.

    Args:
        cells_per_classifier: Cells of each classifier.
        block: Cells that are given out together, fewer where fewer are left.
        seconds_a_cell: Time of one cell, by classifier.
        num_actors: Actors that there are.
        most_laid_out: Blocks up to which it is worth laying them out; the time of more is their mean.

    Returns:
        How many actors get something, and when the last one is done, in seconds.
    """
    num_blocks = len(seconds_a_cell) * -(-cells_per_classifier // block)
    if num_blocks > max(most_laid_out, num_actors):
        return num_actors, cells_per_classifier * sum(seconds_a_cell) / num_actors
    num_busy = min(num_actors, num_blocks)
    left = dict.fromkeys(range(len(seconds_a_cell)), cells_per_classifier)
    given = dict.fromkeys(left, 0)
    free = [(0.0, actor, -1) for actor in range(num_busy)]
    while left:
        now, actor, warm = free[0]
        which = min(left, key=lambda name: (name != warm, given[name]))
        given[which] += which != warm
        count = min(block, left[which])
        left[which] -= count
        if not left[which]:
            del left[which]
        heapq.heapreplace(free, (now + count * seconds_a_cell[which], actor, which))
    return num_busy, max(done for done, _, _ in free)


def forward_rate(classifier: Classifier, threads: int, pixels: int = 1, seconds: float = 1.0) -> float:
    """Measures how many images a second a classifier takes, after a warm-up.

    Args:
        classifier: The classifier.
        threads: CPU threads.
        pixels: Altered pixels of the images, which count where it reuses the background.
        seconds: How long to measure.
    """
    count = classifier.micro_batch
    if classifier.runtime.reuses_background:
        classify = partial(classifier.sparse_log_probs, *close_pixels(classifier.input_shape, count, pixels))
    else:
        images = torch.rand(count, *classifier.input_shape, device=classifier.device)
        classify = partial(classifier.log_probs, images)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if classifier.is_black_box:  # of which each image may cost something
            seconds = 0.0
        else:
            classify()
            _wait_for(classifier)
        seen, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds or not seen:
            classify()
            _wait_for(classifier)
            seen += count
        return seen / spent
    finally:
        torch.set_num_threads(before)


def _wait_for(classifier: Classifier) -> None:
    if classifier.device.type == "cuda":
        torch.cuda.synchronize(classifier.device)


def _footprint(classifier: Classifier) -> int:
    """Returns the bytes of the weights and of the largest layer's input and output in one forward pass."""
    largest = 0

    def measure(module: torch.nn.Module, inputs: tuple[object, ...], output: object) -> None:
        nonlocal largest
        del module
        tensors = [tensor for tensor in (*inputs, output) if isinstance(tensor, torch.Tensor)]
        largest = max(largest, sum(tensor.nbytes for tensor in tensors))

    module = classifier.module
    hooks = [layer.register_forward_hook(measure) for layer in module.modules() if not list(layer.children())]
    classifier.reference_log_probs(torch.zeros(1, *classifier.input_shape, device=classifier.device))
    for hook in hooks:
        hook.remove()
    return largest + sum(parameter.nbytes for parameter in module.parameters())
