"""From what a job says of its classifiers to the classifiers themselves: given, loaded, reused, or trained once.

A network that a job trains is copied from the cache into the run's folder, so that the run can be resumed and checked
from itself alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import Trainer, train_once
from sfi_ray.cluster.tuning_cache import Tuner
from sfi_ray.data import DatasetInfo
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, Job
from sfi_ray.models import (
    Classifier,
    ClassifierPayload,
    Execution,
    ModelCard,
    TuningRequest,
    default_micro_batch,
    load_into,
    read_state_dict,
    weights_bytes,
)
from sfi_ray.models.sources import Normalisation, Source
from sfi_ray.store.classifiers import read_classifier, stored_source, weights_name
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.record import ClassifierRecord, RunRecord


@dataclass(frozen=True, slots=True)
class Provided:
    """A classifier that is ready to travel.

    Attributes:
        payload: The classifier.
        record: What the run remembers of it.
    """

    payload: ClassifierPayload
    record: ClassifierRecord


class Provisioner:
    """Gets the classifiers of a job.

    Args:
        job: The job.
        info: Its data set.
        folder: The run's folder.
        given: Classifiers given in code, by name.
        reporter: Hears of training.
        known: The record of the run when it is resumed.
    """

    def __init__(
        self,
        job: Job,
        info: DatasetInfo,
        folder: RunFolder,
        given: Mapping[str, Classifier],
        reporter: Reporter,
        known: RunRecord | None,
    ) -> None:
        self._job = job
        self._info = info
        self._folder = folder
        self._given = given
        self._reporter = reporter
        self._known = {record.name: record for record in known.classifiers} if known else {}
        self._loaded: dict[str, Classifier] = {}

    def check(self) -> None:
        """Finds what is wrong with the classifiers before anything is trained or written.

        Raises:
            InputError: A network does not exist, weights do not fit, a given classifier takes other images, or the
                attack needs something of a network that it lacks.
        """
        for spec in self._job.classifiers:
            if spec.name in self._given:
                self._check_given(self._given[spec.name])
                self._require_same(spec, self._given[spec.name])
                self._job.attack.check_classifier(self._given[spec.name])
            elif self._was_given(spec):
                raise InputError(
                    f"classifier '{spec.name}' was given in code when '{self._folder.location}' was first launched; "
                    "give it again"
                )
            elif spec.name in self._known or spec.source.needs_training:
                self._source(spec).check(self._info.shape, self._info.num_classes)
                if self._job.attack.looks_inside:
                    self._job.attack.check_classifier(self._untrained(spec))
            else:
                self._loaded[spec.name] = self._from_source(spec)
                self._require_batch(spec, self._loaded[spec.name])
                self._job.attack.check_classifier(self._loaded[spec.name])

    def provide(self, device: str, trainer: Trainer, tuner: Tuner, request: TuningRequest | None) -> list[Provided]:
        """Gets every classifier, training those that are not trained yet, and settles how it computes.

        Args:
            device: Kind of device that will search, train and be measured.
            trainer: Trains a network.
            tuner: Measures how a network computes fastest.
            request: What is to be measured; None where the rule decides.

        Raises:
            InputError: A classifier is not the one that the run was launched with.
        """
        provided = [self._provide(spec, device, trainer) for spec in self._job.classifiers]
        if request is None:
            return provided
        # Once all of them are trained: nothing else may compute meanwhile.
        return [one if one.record.name in self._known else self._tuned(one, device, tuner, request) for one in provided]

    def _tuned(self, provided: Provided, device: str, tuner: Tuner, request: TuningRequest) -> Provided:
        """Settles by measurement how a classifier computes."""
        choice = tuner(provided.payload, request, device)
        by_rule = provided.record.execution
        gain = (
            "nothing faster was found"
            if choice.execution == by_rule
            else f"{choice.gain:.1f} times what {by_rule.describe()} would give"
        )
        self._reporter.say(
            f"{provided.record.name}: computes in {choice.execution.describe()}: {choice.rate:,.0f} images/s, {gain}"
        )
        record = provided.record.model_copy(update={"execution": choice.execution, "tuning_seconds": choice.seconds})
        return Provided(provided.payload, record)

    def _provide(self, spec: ClassifierSpec, device: str, trainer: Trainer) -> Provided:
        known = self._known.get(spec.name)
        card: ModelCard | None = None
        if spec.name in self._given:
            classifier = self._given[spec.name]
        elif known:
            classifier = read_classifier(self._folder, spec, known, self._info)
        elif spec.name in self._loaded:
            classifier = self._loaded.pop(spec.name)
        else:
            classifier, card = self._trained(spec, device, trainer)
        source = None if spec.name in self._given else spec.source
        if known:
            self._require_same(spec, classifier)
            return Provided(classifier.to_payload(source), known)
        if source:
            self._copy_into_run(spec, classifier, card)
        record = ClassifierRecord(
            name=spec.name,
            fingerprint=classifier.fingerprint,
            architecture=source.describe() if source else None,
            mean=classifier.mean,
            std=classifier.std,
            execution=self._execution(classifier, device),
            test_accuracy=card.test_accuracy if card else None,
            test_confidence=card.test_confidence if card else None,
        )
        return Provided(classifier.to_payload(source), record)

    def _execution(self, classifier: Classifier, device: str) -> Execution:
        """Returns how a classifier computes by rule."""
        compute = self._job.compute
        return classifier.execution.changed(
            precision="float32" if compute.precision == "auto" else compute.precision,
            micro_batch=compute.micro_batch or default_micro_batch(classifier.input_shape, device),
        )

    def _require_same(self, spec: ClassifierSpec, classifier: Classifier) -> None:
        known = self._known.get(spec.name)
        if known and classifier.fingerprint != known.fingerprint:
            raise InputError(
                f"classifier '{spec.name}' is not the one that '{self._folder.location}' was launched with "
                f"(fingerprint {classifier.fingerprint}, then {known.fingerprint}); "
                "give the job another name, or throw that run away with --fresh"
            )

    def _require_batch(self, spec: ClassifierSpec, classifier: Classifier) -> None:
        """Refuses a network that takes another number of images at once than it will be given."""
        size = getattr(classifier.module, "fixed_batch_size", None)
        if size not in (None, self._job.compute.micro_batch):
            raise InputError(
                f"classifier '{spec.name}' was exported for {size} images at once; export it with a dynamic batch "
                f"dimension, or set compute.micro_batch to {size} where that is a power of two"
            )

    def _was_given(self, spec: ClassifierSpec) -> bool:
        known = self._known.get(spec.name)
        return known is not None and known.architecture is None

    def _check_given(self, classifier: Classifier) -> None:
        info = self._info
        if classifier.input_shape != info.shape or classifier.num_classes != info.num_classes:
            raise InputError(
                f"classifier '{classifier.name}' takes images of shape {classifier.input_shape} and has "
                f"{classifier.num_classes} classes; '{info.name}' has {info.shape} and {info.num_classes}"
            )

    def _classifier(
        self, spec: ClassifierSpec, module: torch.nn.Module, normalisation: Normalisation | None
    ) -> Classifier:
        mean, std = normalisation or (None, None)
        return Classifier(
            module,
            name=spec.name,
            input_shape=self._info.shape,
            num_classes=self._info.num_classes,
            mean=mean,
            std=std,
        )

    def _source(self, spec: ClassifierSpec) -> Source:
        """Returns what a classifier is built from, in a run that is resumed with what the run's folder keeps of it."""
        return stored_source(self._folder, spec) if spec.name in self._known else spec.source

    def _from_source(self, spec: ClassifierSpec) -> Classifier:
        module, normalisation = spec.source.load(self._info.shape, self._info.num_classes)
        return self._classifier(spec, module, normalisation)

    def _untrained(self, spec: ClassifierSpec) -> Classifier:
        """Builds the classifier with whatever weights it starts from."""
        with torch.random.fork_rng(devices=[]):
            module = self._source(spec).build_module(self._info.shape, self._info.num_classes)
        return self._classifier(spec, module, None)

    def _trained(self, spec: ClassifierSpec, device: str, trainer: Trainer) -> tuple[Classifier, ModelCard]:
        card, folder = train_once(
            spec.network,
            self._job.dataset,
            spec.training,
            name=spec.name,
            device=device,
            trainer=trainer,
            reporter=self._reporter,
        )
        module = spec.source.build_module(self._info.shape, self._info.num_classes)
        load_into(module, read_state_dict(folder / "weights.safetensors"), str(folder))
        return self._classifier(spec, module, (card.mean, card.std)), card

    def _copy_into_run(self, spec: ClassifierSpec, classifier: Classifier, card: ModelCard | None) -> None:
        self._folder.write(weights_name(spec.name), weights_bytes(classifier.module))
        content = spec.source.read_content()
        if content is not None:
            self._folder.write(f"models/{spec.name}{spec.source.suffix}", content)
        if card:
            self._folder.write(f"models/{spec.name}.json", card.model_dump_json(indent=2).encode())
