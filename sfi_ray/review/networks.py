"""The classifiers of a run, one at a time, each checked to be the one that was searched."""

from __future__ import annotations

from collections.abc import Mapping

from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.models import Classifier, ClassifierPayload, is_same_network
from sfi_ray.store.classifiers import read_classifier
from sfi_ray.store.run import Run
from sfi_ray.text import MOST_REASON, printable


class RunClassifiers:
    """Rebuilds the classifiers of a run from its folder; it holds only the last one.

    A run's folder is data, and may come from a stranger. Code that its record names runs only where that is allowed.

    Args:
        run: The run.
        given: Classifiers by name that replace those of the folder, such as classifiers that were given in code at the
            launch.
        device: ``cpu`` or ``cuda``.
        allow_code: Whether to call the functions that the run's record names as factories of classifiers.

    Raises:
        InputError: A classifier is given that the run does not have.
    """

    def __init__(
        self,
        run: Run,
        given: Mapping[str, Classifier] | None = None,
        device: str = "cpu",
        *,
        allow_code: bool = False,
    ) -> None:
        self._run = run
        self._given = dict(given or {})
        self._allow_code = allow_code
        self._device = device
        self._records = {record.name: record for record in run.record.classifiers}
        self._last: Classifier | None = None
        if unknown := self._given.keys() - self._records.keys():
            raise InputError(f"'{run.folder.location}' has no classifier '{min(unknown)}', only {self.names}")

    @property
    def names(self) -> str:
        """The names of all classifiers of the run, for messages."""
        return ", ".join(self._records)

    def __getitem__(self, name: str) -> Classifier:
        """Returns a classifier in the micro-batches of the search.

        Raises:
            InputError: It is not in the folder, is broken, differs from the one that was searched, or needs code that
                is not allowed.
            StorageError: Its files cannot be read.
        """
        if self._last is None or self._last.name != name:
            self._last = None  # memory may hold only one network
            self._last = self._load(name)
        return self._last

    def payload(self, name: str) -> ClassifierPayload:
        """Returns a classifier ready to travel; it raises the errors of the classifier itself."""
        return self[name].to_payload(None if name in self._given else self._spec(name).source)

    def _spec(self, name: str) -> ClassifierSpec:
        return next(spec for spec in self._run.job.classifiers if spec.name == name)

    def _load(self, name: str) -> Classifier:
        run, record = self._run, self._records[name]
        micro_batch = record.runtime.micro_batch
        if name in self._given:
            payload = self._given[name].to_payload()
            classifier = Classifier.from_payload(payload, device=self._device, micro_batch=micro_batch)
        elif record.architecture is None:
            raise InputError(
                f"classifier '{name}' was given in code and is not in '{run.folder.location}'; give it again, from "
                f"Python, with classifiers={{'{name}': ...}}"
            )
        else:
            spec = self._spec(name)
            if spec.source.runs_code and not self._allow_code:
                code = printable(spec.source.describe(), MOST_REASON)
                raise InputError(
                    f"classifier '{name}' is built by code, {code}, and a run's folder alone must not run code: check "
                    "that code and allow it with --allow-code (allow_code=True), or "
                    f"give the classifier, from Python, with classifiers={{'{name}': ...}}"
                )
            if spec.source.asks_server and not self._allow_code:
                raise InputError(
                    f"classifier '{name}' is {printable(spec.source.describe(), MOST_REASON)}, and a run's folder "
                    "alone must not choose whom to ask: check that address and allow it with --allow-code "
                    "(allow_code=True)"
                )
            info = run.record.dataset_info
            classifier = read_classifier(run.folder, spec, record, info, device=self._device, micro_batch=micro_batch)
        if not is_same_network(classifier.fingerprint, classifier.examined.answers, record.fingerprint, record.answers):
            raise InputError(
                f"classifier '{name}' is not the one that '{run.folder.location}' was launched with (fingerprint "
                f"{classifier.fingerprint}, then {record.fingerprint})"
            )
        classifier.fingerprint = record.fingerprint  # rounding on another machine may change it
        return classifier
