"""The models of a trial: the first one, trained or read from weights, and those trained with SFIs.

Each is made once and kept in the trial's folder, so that a resumed trial has the same weights.
"""

from __future__ import annotations

from collections.abc import Callable

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import Trainer, check_cache, train_once
from sfi_ray.data import OUTLIER, DatasetInfo, DatasetWithOutliers, TrainingData, load_dataset, load_labels
from sfi_ray.errors import START_OVER, InputError, named
from sfi_ray.grid import derive_seed
from sfi_ray.job import RoundsJob
from sfi_ray.location import within
from sfi_ray.models import (
    Classifier,
    ModelCard,
    TrainingSettings,
    is_same_network,
    load_into,
    measure_natural,
    read_state_dict,
    remarks_on,
    weights_bytes,
)
from sfi_ray.models.sources import Source
from sfi_ray.models.training.losses import loss_of
from sfi_ray.models.with_detector import check_detector, fit_detector, has_detector, with_detector
from sfi_ray.store.folder import WEIGHTS_BYTES, RunFolder


class _Kept(BaseModel):
    """The file beside the weights of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    answers: tuple[float, ...]
    card: ModelCard | None


class RoundModels:
    """Makes the models of a trial."""

    def __init__(
        self, job: RoundsJob, info: DatasetInfo, folder: RunFolder, trainer: Trainer, device: str, reporter: Reporter
    ) -> None:
        self._job = job
        self._info = info
        self._folder = folder
        self._trainer = trainer
        self._device = device
        self._reporter = reporter

    def first(self) -> Classifier:
        """Returns the first model, which knows no outliers.

        Raises:
            InputError: Its weights do not fit; see `check_models`.
        """
        spec = self._job.classifier
        if spec.source.needs_training:
            return self._known(0) or self._train(0, self._job.dataset, spec.training, self._info.num_classes)
        return self._known(0) or self._keep(0, first_from_weights(self._job, self._info), None)

    def retrained(self, number: int, outliers: Callable[[], DatasetWithOutliers]) -> Classifier:
        """Returns the model of a later round.

        Args:
            number: Number of the round, from 1.
            outliers: Returns the training data; called only where the model is not kept.
        """
        known = self._known(number)
        if known:
            return known
        training = self._job.classifier.training
        seed = derive_seed(self._job.seed, f"{training.seed}|model {number}")
        num_classes = self._info.num_classes + self._job.rounds.outlier_loss.adds_class
        return self._train(number, outliers(), training.model_copy(update={"seed": seed}), num_classes)

    def attacked(self, number: int, classifier: Classifier) -> Classifier:
        """Returns what an attack must fool: the model, or the model with a detector.

        The fitted detector is kept beside the model, so that a resumed attack meets the same one.
        """
        detector, num_classes = self._job.rounds.evade, self._info.num_classes
        if detector == "none" or not has_detector(classifier, num_classes, detector):
            return classifier
        name = f"models/M{number}_{detector}_{classifier.fingerprint}.safetensors"
        if not self._folder.exists(name):
            with named("rounds.evade"):
                fit = fit_detector(classifier, load_dataset(self._job.dataset), detector)
            self._folder.write(name, safetensors.torch.save(fit))
        try:
            fit = safetensors.torch.load(self._folder.read(name, WEIGHTS_BYTES))
        except SafetensorError as error:
            raise InputError(
                f"'{within(self._folder.location, name)}' is a broken detector ({error}); {START_OVER}"
            ) from error
        return with_detector(classifier, num_classes, detector, fit)

    def _train(self, number: int, data: TrainingData, settings: TrainingSettings, num_classes: int) -> Classifier:
        name = f"M{number}"
        card, cached = train_once(
            self._job.classifier.network,
            data,
            settings,
            name=name,
            device=self._device,
            trainer=self._trainer,
            reporter=self._reporter,
        )
        module = self._module(read_state_dict(cached / "weights.safetensors"), num_classes, str(cached))
        return self._keep(number, self._classifier(name, module, num_classes, card.mean, card.std), card)

    def _module(self, state: dict[str, Tensor], num_classes: int, origin: str) -> nn.Module:
        module = self._job.classifier.source.build_module(self._info.shape, num_classes)
        load_into(module, state, origin)
        return module

    def _classifier(
        self, name: str, module: nn.Module, num_classes: int, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> Classifier:
        return Classifier(module, name=name, input_shape=self._info.shape, num_classes=num_classes, mean=mean, std=std)

    def _keep(self, number: int, classifier: Classifier, card: ModelCard | None) -> Classifier:
        kept = _Kept(
            num_classes=classifier.num_classes,
            mean=classifier.mean,
            std=classifier.std,
            fingerprint=classifier.fingerprint,
            answers=classifier.examined.answers,
            card=card,
        )
        self._folder.write(f"models/M{number}.safetensors", weights_bytes(classifier.network))
        self._folder.write(f"models/M{number}.json", (kept.model_dump_json(indent=2) + "\n").encode())
        return classifier

    def _known(self, number: int) -> Classifier | None:
        """Reads a kept model; None where it is incomplete, since the file beside its weights is written last."""
        name = f"models/M{number}"
        if not self._folder.exists(f"{name}.json"):
            return None
        where = within(self._folder.location, name)
        try:
            kept = _Kept.model_validate_json(self._folder.read(f"{name}.json"))
            state = safetensors.torch.load(self._folder.read(f"{name}.safetensors", WEIGHTS_BYTES))
        except (ValidationError, SafetensorError) as error:
            raise InputError(f"'{where}' is a broken model ({error}); {START_OVER}") from error
        module = self._module(state, kept.num_classes, where)
        classifier = self._classifier(f"M{number}", module, kept.num_classes, kept.mean, kept.std)
        if not is_same_network(classifier.fingerprint, classifier.examined.answers, kept.fingerprint, kept.answers):
            raise InputError(f"'{where}.safetensors' has changed since its training; {START_OVER}")
        classifier.fingerprint = kept.fingerprint  # the rounding of another machine may have named it otherwise
        return classifier


def check_models(job: RoundsJob, info: DatasetInfo) -> tuple[str, ...]:
    """Checks the data and the first model of a trial before anything is trained or written.

    Returns:
        What makes the results of a first model with the user's own weights doubtful, one sentence each.

    Raises:
        InputError: A split has no images, a class has the name of the outlier class, the network does not take the
            images or lacks the layers of a detector, its weights do not fit or already have an outlier class, or its
            loss does not support outliers.
        StorageError: The cache of trained networks cannot be written.
    """
    for split in ("train", "test"):
        if not len(load_labels(job.dataset, split)):
            raise InputError(
                f"data set '{info.name}' has no {split} images; rounds train on one split and measure on the other"
            )
    check_cache()
    loss = job.rounds.outlier_loss
    if (loss.adds_class or job.rounds.evade != "none") and OUTLIER in info.class_names:
        raise InputError(
            f"data set '{info.name}' already has a class '{OUTLIER}', which rounds add to the first model; rename it, "
            "or leave its images out"
        )
    source, num_classes = job.classifier.source, info.num_classes + loss.adds_class
    source.check(info.shape, info.num_classes)
    loss_of(source.build_empty(info.shape, num_classes), num_classes, loss)
    if job.rounds.evade != "none":
        with named("rounds.evade"):
            check_detector(_untrained(source, info), job.rounds.evade)
    if not source.needs_training:
        first = first_from_weights(job, info)
        job.attack.check_classifier(first)
        is_normalised = job.classifier.says_normalisation or first.is_normalised
        natural = measure_natural(first, job.dataset, is_normalised=is_normalised)
        return remarks_on(first, natural, job.verification.threshold, is_normalised=is_normalised)
    if job.attack.looks_inside:
        job.attack.check_classifier(_untrained(source, info))
    return ()


def _untrained(source: Source, info: DatasetInfo) -> Classifier:
    module = source.build_module(info.shape, info.num_classes)
    return Classifier(module, name="M0", input_shape=info.shape, num_classes=info.num_classes, is_trained=False)


def first_from_weights(job: RoundsJob, info: DatasetInfo) -> Classifier:
    """Reads the first model from the weights that a job gives.

    Raises:
        InputError: They do not fit.
    """
    source = job.classifier.source
    try:
        module, normalisation = source.load(info.shape, info.num_classes)
    except InputError as error:
        if _fits(source, info, info.num_classes + 1):
            raise InputError(
                f"classifier '{job.classifier.name}': '{source.weights}' has {info.num_classes + 1} classes, one more "
                f"than '{info.name}', probably an outlier class. Rounds begin with a model without one; give weights "
                "from before the defence, or leave `weights` out to train the model"
            ) from error
        raise
    mean, std = normalisation or (None, None)
    return Classifier(
        module,
        name="M0",
        input_shape=info.shape,
        num_classes=info.num_classes,
        mean=mean,
        std=std,
        outputs=job.classifier.outputs,
    )


def _fits(source: Source, info: DatasetInfo, num_classes: int) -> bool:
    try:
        source.load(info.shape, num_classes)
    except InputError:
        return False
    return True
