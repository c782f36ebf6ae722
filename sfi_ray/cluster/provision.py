"""The classifiers of a job: given in code, loaded, reused from the run, or trained once.

A network that a job trains is copied from the cache into the run's folder, so that this folder alone is enough to
resume and check the run.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfi_ray.cluster.backend import Backend
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.cluster.training_cache import Trainer, check_cache, train_once
from sfi_ray.cluster.tuning_cache import Tuner
from sfi_ray.data import DatasetInfo, check_trainable
from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, Job
from sfi_ray.models import (
    Classifier,
    ClassifierPayload,
    ModelCard,
    NaturalAccuracy,
    RuntimeConfig,
    TuningRequest,
    default_micro_batch,
    is_same_network,
    load_into,
    measure_natural,
    read_state_dict,
    remarks_on,
    stated_precision,
    weights_bytes,
)
from sfi_ray.models.given import as_classifier
from sfi_ray.models.sources import Normalisation, Source
from sfi_ray.store.classifiers import read_classifier, stored_source, weights_name
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.record import ClassifierRecord, RunRecord


@dataclass(frozen=True, slots=True)
class Provided:
    """A classifier that is ready to travel."""

    payload: ClassifierPayload
    record: ClassifierRecord


class Provisioner:
    """Gets the classifiers of a job.

    Args:
        job: The job.
        info: Its data set.
        folder: The run's folder.
        given: What was given in code, by name; `as_classifier` makes it a classifier.
        reporter: Hears of training.
        known: The record of the run when it is resumed.
        refuses_chance: Whether to refuse a classifier whose accuracy on natural images is near chance.

    Raises:
        InputError: What was given is no classifier.
    """

    def __init__(
        self,
        job: Job,
        info: DatasetInfo,
        folder: RunFolder,
        given: Mapping[str, Any],
        reporter: Reporter,
        known: RunRecord | None,
        *,
        refuses_chance: bool = False,
    ) -> None:
        self._refuses_chance = refuses_chance
        self._job = job
        self._info = info
        self._folder = folder
        self._given = {
            name: as_classifier(one, name=name, input_shape=info.shape, num_classes=info.num_classes)
            for name, one in given.items()
        }
        self._bare = {name for name, one in given.items() if isinstance(one, nn.Module)}
        self._reporter = reporter
        self._known = {record.name: record for record in known.classifiers} if known else {}
        self._loaded: dict[str, Classifier] = {}
        self._judged: dict[str, tuple[NaturalAccuracy | None, tuple[str, ...]]] = {}

    def check(self) -> None:
        """Checks the classifiers before anything is trained or written.

        Raises:
            InputError: A network does not exist, weights do not fit, a given classifier takes other images, a network
                lacks what the attack needs, a network cannot be packed for another process, or a network has no
                images to train on. With `refuses_chance`, also where accuracy on natural images is near chance.
            StorageError: A network needs training, and the cache of trained networks cannot be written.
        """
        for spec in self._job.classifiers:
            if spec.name in self._given:
                self._check_given(self._given[spec.name])
                self._require_same(spec, self._given[spec.name])
                self._job.attack.check_classifier(self._given[spec.name])
                self._given[spec.name].check_packing()
                self._measure(spec, self._given[spec.name])
            elif self._was_given(spec):
                raise InputError(
                    f"classifier '{spec.name}' was given in code when '{self._folder.location}' was first launched; "
                    "give it again"
                )
            elif spec.name in self._known or spec.source.needs_training:
                self._source(spec).check(self._info.shape, self._info.num_classes)
                if spec.name not in self._known:
                    check_trainable(self._job.dataset)
                    check_cache()
                if self._job.attack.looks_inside:
                    self._job.attack.check_classifier(self._untrained(spec))
            else:
                self._loaded[spec.name] = self._from_source(spec)
                if self._job.compute.micro_batch is not None:
                    self._loaded[spec.name].check_micro_batch(self._job.compute.micro_batch)
                self._job.attack.check_classifier(self._loaded[spec.name])
                self._loaded[spec.name].check_packing(spec.source)
                self._measure(spec, self._loaded[spec.name])

    def at_hand(self) -> dict[str, Classifier]:
        """Returns the classifiers that need no training, by name, after `check`.

        Raises:
            InputError: A classifier of a resumed run is broken.
            StorageError: It cannot be read.
        """
        kept = {
            spec.name: read_classifier(self._folder, spec, self._known[spec.name], self._info)
            for spec in self._job.classifiers
            if spec.name in self._known and spec.name not in self._given
        }
        return {**kept, **self._given, **self._loaded}

    def provide(
        self, device: str, backend: Backend, request: TuningRequest | None = None, most_images: int = 2**20
    ) -> list[Provided]:
        """Gets every classifier, trains the untrained ones, and decides how each computes.

        Args:
            device: Kind of device for search, training and measurements.
            backend: Trains networks, and measures how one computes fastest.
            request: What to measure; None where the rule decides.
            most_images: Images that come together at most, a power of two; see `default_micro_batch`.

        Raises:
            InputError: A classifier has changed since the run was launched.
        """
        untrained = [spec for spec in self._job.classifiers if self._is_untrained(spec)]
        threads = [spec.training.threads for spec in untrained]
        works = [functools.partial(self._train, spec, device) for spec in untrained]
        each = max(filter(None, threads)) if threads and all(threads) else None
        found = backend.train_each(works, self._reporter, device, each) if works else []
        trained = {spec.name: one for spec, one in zip(untrained, found, strict=True)}
        provided = [self._provide(spec, device, trained.get(spec.name), most_images) for spec in self._job.classifiers]
        if request is None:
            return provided
        # After the last training: nothing else may compute during a measurement.
        return [
            one if one.record.name in self._known else self._tuned(one, device, backend.tuner, request)
            for one in provided
        ]

    def _tuned(self, provided: Provided, device: str, tuner: Tuner, request: TuningRequest) -> Provided:
        """Measures how a classifier computes; a black box computes as it likes."""
        if provided.payload.examined.is_black_box:
            return provided
        size = provided.payload.examined.batch_size
        if size is not None:
            request = request.model_copy(update={"micro_batch": size})
        choice = tuner(provided.payload, request, device)
        by_rule = provided.record.runtime
        gain = (
            "nothing faster was found"
            if choice.runtime == by_rule
            else f"{choice.gain:.1f} times what {by_rule.describe()} would give"
        )
        rate = f"{choice.rate:,.0f} images/s an actor"
        self._reporter.log(f"{provided.record.name}: computes in {choice.runtime.describe()}: {rate}, {gain}")
        record = provided.record.model_copy(update={"runtime": choice.runtime, "tuning_seconds": choice.seconds})
        return Provided(provided.payload, record)

    def _is_untrained(self, spec: ClassifierSpec) -> bool:
        return not any(spec.name in ready for ready in (self._given, self._known, self._loaded))

    def _provide(
        self, spec: ClassifierSpec, device: str, trained: tuple[ModelCard, Path] | None, most_images: int
    ) -> Provided:
        known = self._known.get(spec.name)
        card: ModelCard | None = None
        if spec.name in self._given:
            classifier = self._given[spec.name]
        elif known:
            classifier = read_classifier(self._folder, spec, known, self._info)
        elif spec.name in self._loaded:
            classifier = self._loaded.pop(spec.name)
        else:
            assert trained is not None
            card, folder = trained
            classifier = self._trained(spec, card, folder)
        source = None if spec.name in self._given else spec.source
        if known:
            self._require_same(spec, classifier)
            classifier.fingerprint = known.fingerprint  # the rounding of another machine may have named it otherwise
            return Provided(classifier.to_payload(source), known)
        if card:
            self._judge(spec, classifier, NaturalAccuracy(card.test_accuracy, card.test_confidence, 1.0, 0))
        natural, remarks = self._judged[spec.name]
        if source:
            self._copy_into_run(spec, classifier, card)
        record = ClassifierRecord(
            name=spec.name,
            fingerprint=classifier.fingerprint,
            answers=classifier.examined.answers,
            outputs=classifier.examined.outputs,
            architecture=source.describe() if source else None,
            mean=classifier.mean,
            std=classifier.std,
            runtime=self._runtime(classifier, device, most_images),
            test_accuracy=natural.accuracy if natural else None,
            num_natural=natural.num_images if natural and not card else None,
            test_confidence=natural.confidence if natural else None,
            remarks=remarks,
        )
        return Provided(classifier.to_payload(source), record)

    def _measure(self, spec: ClassifierSpec, classifier: Classifier) -> None:
        """Measures the accuracy of a classifier on natural images, unless the run knows the classifier."""
        if spec.name not in self._known:
            is_normalised = self._is_normalised(spec, classifier)
            natural = measure_natural(classifier, self._job.dataset, is_normalised=is_normalised)
            self._judge(spec, classifier, natural)

    def _judge(self, spec: ClassifierSpec, classifier: Classifier, natural: NaturalAccuracy | None) -> None:
        """Reports the accuracy of a classifier on natural images, and what makes an attack on it doubtful."""
        threshold, is_normalised = self._job.verification.threshold, self._is_normalised(spec, classifier)
        remarks = remarks_on(classifier, natural, threshold, is_normalised=is_normalised)
        if self._refuses_chance and natural and natural.is_near_chance(classifier.num_classes):
            raise InputError(f"classifier '{spec.name}': {'; '.join(remarks)}")
        self._judged[spec.name] = natural, remarks
        gives = "" if classifier.examined.outputs == "logits" else f"gives {classifier.examined.outputs}; "
        seen = "no natural images are at hand, so its accuracy is unknown"
        if natural:
            seen = f"{natural.accuracy:.1%} of {natural.images} right, mean confidence {natural.confidence:.1%}"
        self._reporter.log(f"{spec.name}: {gives}{seen}")
        for remark in remarks:
            self._reporter.log(f"warning: {spec.name}: {remark}")

    def _is_normalised(self, spec: ClassifierSpec, classifier: Classifier) -> bool:
        """Whether the normalisation of a classifier's images is known; weights in a file do not tell it."""
        if spec.name in self._given:
            return spec.name not in self._bare
        return spec.says_normalisation or classifier.is_normalised

    def _runtime(self, classifier: Classifier, device: str, most_images: int) -> RuntimeConfig:
        """Returns the runtime configuration of a classifier by rule."""
        compute = self._job.compute
        return classifier.runtime.changed(
            precision="float32" if classifier.is_black_box else stated_precision(compute.precision),
            micro_batch=compute.micro_batch
            or classifier.batch_size
            or default_micro_batch(classifier.input_shape, device, most_images),
        )

    def _require_same(self, spec: ClassifierSpec, classifier: Classifier) -> None:
        known = self._known.get(spec.name)
        if known and not is_same_network(
            classifier.fingerprint, classifier.examined.answers, known.fingerprint, known.answers
        ):
            fingerprints = f"(fingerprint {known.fingerprint} then, {classifier.fingerprint} now)"
            raise changed_since(f"classifier '{spec.name}' {fingerprints}", self._folder)

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
        self,
        spec: ClassifierSpec,
        module: nn.Module,
        normalisation: Normalisation | None,
        *,
        is_trained: bool = True,
    ) -> Classifier:
        mean, std = normalisation or (None, None)
        return Classifier(
            module,
            name=spec.name,
            input_shape=self._info.shape,
            num_classes=self._info.num_classes,
            mean=mean,
            std=std,
            outputs=spec.outputs,
            is_trained=is_trained,
        )

    def _source(self, spec: ClassifierSpec) -> Source:
        """Returns the source of a classifier; in a resumed run, with the files that the run's folder keeps."""
        return stored_source(self._folder, spec) if spec.name in self._known else spec.source

    def _from_source(self, spec: ClassifierSpec) -> Classifier:
        module, normalisation = spec.source.load(self._info.shape, self._info.num_classes)
        return self._classifier(spec, module, normalisation)

    def _untrained(self, spec: ClassifierSpec) -> Classifier:
        """Builds the classifier with the weights that its training starts from."""
        with torch.random.fork_rng(devices=[]):
            module = self._source(spec).build_module(self._info.shape, self._info.num_classes)
        return self._classifier(spec, module, None, is_trained=False)

    def _train(self, spec: ClassifierSpec, device: str, trainer: Trainer, reporter: Reporter) -> tuple[ModelCard, Path]:
        return train_once(
            spec.network,
            self._job.dataset,
            spec.training,
            name=spec.name,
            device=device,
            trainer=trainer,
            reporter=reporter,
        )

    def _trained(self, spec: ClassifierSpec, card: ModelCard, folder: Path) -> Classifier:
        module = spec.source.build_module(self._info.shape, self._info.num_classes)
        load_into(module, read_state_dict(folder / "weights.safetensors"), str(folder))
        return self._classifier(spec, module, (card.mean, card.std))

    def _copy_into_run(self, spec: ClassifierSpec, classifier: Classifier, card: ModelCard | None) -> None:
        self._folder.write(weights_name(spec.name), weights_bytes(classifier.network))
        content = spec.source.read_content()
        if content is not None:
            self._folder.write(f"models/{spec.name}{spec.source.suffix}", content)
        if card:
            self._folder.write(f"models/{spec.name}.json", card.model_dump_json(indent=2).encode())


def changed_since(what: str, folder: RunFolder) -> InputError:
    """Returns the error for a part of the job that has changed since its run was first launched."""
    return InputError(
        f"{what} has changed since '{folder.location}' was first launched; "
        "give the job another name, or delete that run with --fresh (fresh=True)"
    )
