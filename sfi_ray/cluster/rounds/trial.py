"""One trial of rounds: it trains, measures and attacks one model after another.

The attack of a round is a run of its own in the trial's folder, and a finished round has a record beside its rows. So a
trial resumes at its round after any interruption, and gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfi_ray.cluster.backend import Backend
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.rounds.models import RoundModels
from sfi_ray.data import OUTLIER, DatasetSpec, DatasetWithOutliers, dataset_info, load_dataset, load_split
from sfi_ray.errors import InputError
from sfi_ray.grid import derive_seed
from sfi_ray.images import parse_background
from sfi_ray.job import Job, RoundsJob
from sfi_ray.models import Classifier
from sfi_ray.models.detectors import make_detectors
from sfi_ray.rounds.detection import DETECTIONS, NATURAL, SFI, SINGLE_COLOUR, write_scores
from sfi_ray.rounds.experiment import final_folder
from sfi_ray.rounds.measures import attack_record, count_right, verdicts
from sfi_ray.rounds.record import (
    AttackRecord,
    FinalRecord,
    RoundRecord,
    SplitRecord,
    read_final,
    read_round,
    read_stop,
    write_round,
)
from sfi_ray.rounds.split import Searched, Split, earlier_rounds, split
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.run import Run
from sfi_ray.types import StopReason

Launcher: TypeAlias = Callable[[Job, Mapping[str, Classifier]], Run]
"""Runs or resumes the grid of an attack on classifiers given by name."""


def metrics(record: RoundRecord) -> dict[str, float | int]:
    """Returns the metrics of a round for Tune and trackers: shares in [0, 1], also by class."""
    classes = {f"reattack_by_class/{one.target_name}": one.ratio for one in record.attack.classes}
    return {
        "round": record.round,
        **{what.replace("-", ""): share for what, share in record.shares.items()},
        **{what: share for what, share in classes.items() if share is not None},
    }


class Trial:
    """Runs the rounds of one trial."""

    def __init__(
        self, job: RoundsJob, folder: RunFolder, backend: Backend, launcher: Launcher, reporter: Reporter
    ) -> None:
        self._job = job
        self._folder = folder
        self._launcher = launcher
        self._reporter = reporter
        self._info = dataset_info(job.dataset)
        self._parts = job.rounds.parts(self._info.num_classes)
        device = backend.device(job)
        self._models = RoundModels(job, self._info, folder, backend.trainer, device, reporter)

    def run(self, on_round: Callable[[RoundRecord], None]) -> None:
        """Runs the unfinished rounds, then the final attacks; of a trial that was ended early, nothing more.

        Args:
            on_round: Hears of every round in order, finished before or now.

        Raises:
            KeyboardInterrupt: It was asked to stop; running it again resumes.
        """
        stop = read_stop(self._folder)
        for number in range(stop.round + 1 if stop else self._job.rounds.number):
            folder = self._subfolder(f"round_{number}")
            record = read_round(folder)
            if record is None:
                record = self._round(number)
                write_round(folder, record)
                if record.shortage:
                    self._reporter.log(record.shortage)
            if self._job.rounds.detectors == "all" and not folder.exists(DETECTIONS):
                self._detect(number, folder)
            on_round(record)
        for background in () if stop else self._job.rounds.final_backgrounds:
            name = final_folder(background)
            folder = self._subfolder(name)
            if read_final(folder) is None:
                last = self._job.rounds.number - 1
                attack = self._attack(name, last, (background,), derive_seed(self._job.seed, name))
                write_round(folder, FinalRecord(round=last, attack=attack))

    def _round(self, number: int) -> RoundRecord:
        job = self._job
        classifier = self._model(number)
        earlier = earlier_rounds(number, job.rounds.earlier)
        held_out = [self._sfis(before, self._split(before).held_out) for before in range(number)]
        images, labels = self._natural_test
        natural = count_right(self._verdicts(classifier, images, number), labels)
        outliers = torch.cat(held_out) if held_out else images[:0]
        as_outliers = np.full(len(outliers), self._info.num_classes)
        attack = self._attack(f"round_{number}", number, job.backgrounds, derive_seed(job.seed, f"round {number}"))
        parts = self._split(number)
        return RoundRecord(
            round=number,
            fingerprint=classifier.fingerprint,
            trained_with={before: len(self._split(before).train) for before in earlier},
            natural=natural,
            outliers=count_right(self._verdicts(classifier, outliers, number), as_outliers),
            attack=attack,
            split=SplitRecord(
                wanted_train=self._parts[0],
                wanted_held_out=self._parts[1],
                train=len(parts.train),
                held_out=len(parts.held_out),
            ),
        )

    def _detect(self, number: int, folder: RunFolder) -> None:
        """Scores the SFIs that fool a model, natural test images, and the bare backgrounds with every detector."""
        run = Run(folder.location)
        fooling = [cell.index for cell in self._searched(run) if cell.is_fooling]
        colours = [background.value for background in run.record.grid().backgrounds]
        images = {
            SFI: self._sfis(number, fooling),
            NATURAL: self._natural_test[0],
            SINGLE_COLOUR: torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, *self._info.shape),
        }
        scores = {
            (name, kind): score(of_kind).double().numpy()
            for name, score in make_detectors(self._model(number), load_dataset(self._job.dataset)).items()
            for kind, of_kind in images.items()
            if len(of_kind)
        }
        write_scores(folder, scores)

    def _model(self, number: int) -> Classifier:
        if number == 0:
            return self._models.first()
        return self._models.retrained(number, lambda: self._training_data(number))

    def _training_data(self, number: int) -> DatasetWithOutliers:
        """Collects the training data of a round's model.

        Raises:
            InputError: The earlier rounds found no SFI.
        """
        earlier = earlier_rounds(number, self._job.rounds.earlier)
        train = [self._sfis(before, self._split(before).train) for before in earlier]
        held_out = [self._sfis(before, self._split(before).held_out) for before in earlier]
        if not sum(map(len, train)):
            raise InputError(
                f"M{number} has no SFIs to train with: the attack found none in round "
                f"{' or '.join(map(str, earlier))}; give the attack more evaluations, or set rounds.sfis to all"
            )
        return DatasetWithOutliers(
            self._job.dataset, torch.cat(train), torch.cat(held_out), self._job.rounds.outlier_loss
        )

    def _attack(self, name: str, number: int, backgrounds: Sequence[str], seed: int) -> AttackRecord:
        """Attacks the model of a round, with its detector where the trial evades one; counts the results."""
        info, model = self._info, self._model(number)
        classifier = self._models.attacked(number, model)
        has_outlier_class = classifier.num_classes > info.num_classes
        classes = (*info.class_names, OUTLIER) if has_outlier_class else info.class_names
        job = self._job.attack_job(
            name,
            model=classifier.name,
            output=self._folder.location,
            dataset=DatasetSpec(name=info.name, shape=info.shape, class_names=classes),
            backgrounds=tuple(backgrounds),
            seed=seed,
            num_targets=info.num_classes,
        )
        run = self._launcher(job, {classifier.name: classifier})
        if not run.status().is_complete:
            raise KeyboardInterrupt
        return attack_record(
            self._searched(run),
            tuple(enumerate(info.class_names)),
            [parse_background(text, info.channels).name for text in backgrounds],
            self._job.rounds.sfis,
            evaded=None if classifier is model else self._job.rounds.evade,
        )

    def _searched(self, run: Run) -> list[Searched]:
        """Reads the result of every cell of an attack."""
        names = [background.name for background in run.record.grid().backgrounds]
        columns = ["cell_index", "target_class", "background", "replicate", "stop_reason", "fooled", "num_altered"]
        return [
            Searched(
                index=row["cell_index"],
                target_class=row["target_class"],
                background=names.index(row["background"]),
                replicate=row["replicate"],
                has_failed=row["stop_reason"] == StopReason.FAILED,
                is_fooling=row["fooled"],
                is_bare=row["num_altered"] == 0,
            )
            for row in run.table(columns).to_pylist()
        ]

    def _split(self, number: int) -> Split:
        run = Run(self._subfolder(f"round_{number}").location)
        return split(self._searched(run), *self._parts, self._job.rounds.sfis)

    def _sfis(self, number: int, cells: Sequence[int]) -> Tensor:
        """Rebuilds images of a round in the order of `cells`, uint8 ``(N, C, H, W)``."""
        run = Run(self._subfolder(f"round_{number}").location)
        # The table has every cell once, in the order of the ordinals.
        images = run.images(run.table().take(list(cells))) if cells else np.zeros((0, *self._shape_last), np.uint8)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    @property
    def _shape_last(self) -> tuple[int, int, int]:
        return self._info.height, self._info.width, self._info.channels

    def _verdicts(self, classifier: Classifier, images: Tensor, number: int) -> NDArray[np.int64]:
        """Returns the classes that a model predicts for 8-bit images; an outlier is the number of classes."""
        is_exposed = number > 0 and not self._job.rounds.outlier_loss.adds_class
        batch_size = 1024
        batches = [
            classifier.reference_log_probs(images[start : start + batch_size].float() / 255).numpy()
            for start in range(0, len(images), batch_size)
        ]
        log_probs = np.concatenate(batches) if batches else np.zeros((0, classifier.num_classes), np.float32)
        threshold = self._job.verification.threshold if is_exposed else None
        return verdicts(log_probs, self._info.num_classes, threshold)

    @cached_property
    def _natural_test(self) -> tuple[Tensor, NDArray[np.int64]]:
        images, labels = load_split(self._job.dataset, "test")
        return images, labels.numpy()

    def _subfolder(self, name: str) -> RunFolder:
        return self._folder.inner(name)
