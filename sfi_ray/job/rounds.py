"""A job of rounds: attack a model, train the next one with the results, attack that one, and so on (Section 5.7).

A job file with the key `rounds` is such a job. Each of its trials is the same job with some keys changed.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from sfi_ray.attacks import AttackSettings, DifferentialEvolutionAttackSettings, InversionAttackSettings
from sfi_ray.data import DatasetSpec, OutlierLoss
from sfi_ray.job.schema import (
    Backgrounds,
    ClassifierSpec,
    ClusterSettings,
    Compute,
    Job,
    JobPart,
    KRange,
    Name,
    Trackers,
    Verification,
    WholeJob,
)
from sfi_ray.job.tune import TuneSettings, keys_of, value_at, with_values
from sfi_ray.location import within
from sfi_ray.models.with_detector import Evadable

#: The name of the trial in a job without `trials`.
ONLY_TRIAL = "rounds"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class RoundsSettings(JobPart):
    """The number of rounds, and the training of later models."""

    number: int = Field(
        5, ge=1, le=100, description="Number of attacked models: the classifier itself, and those trained after it."
    )
    per_class: int = Field(
        600, ge=1, le=1_000_000, description="Cells searched for each class in a round, over all backgrounds."
    )
    train: int | None = Field(
        None, ge=1, description="SFIs of a round that train later models; null: all but the held-out ones."
    )
    held_out: int | None = Field(
        None, ge=1, description="SFIs of a round that test later models; null: a sixth, as in the paper."
    )
    sfis: Literal["all", "fooling"] = Field(
        "all",
        description="Which images train and test: all, the best one of every cell, as the paper's numbers have it; "
        "fooling, only those that reached the threshold.",
    )
    earlier: Literal["keep", "drop"] = Field(
        "keep",
        description="keep trains a model with the SFIs of all rounds before it; drop with those of the last one.",
    )
    loss: Literal["outlier_class", "outlier_exposure"] = Field(
        "outlier_class",
        description="outlier_class teaches SFIs as one more class; outlier_exposure teaches the model not to be sure "
        "of any class for them.",
    )
    loss_weight: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Weight of SFIs in the loss, above 0; null: 1 for outlier_class, 0.5 for outlier_exposure.",
    )
    final_backgrounds: Annotated[
        tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])
    ] = Field(("white",), description="Backgrounds on which the last model is attacked at the end; [] for no attack.")
    detectors: Literal["none", "all"] = Field(
        "none",
        description="all measures how well usual detectors separate the SFIs that fool each model from natural images; "
        "needs the extra `detectors`.",
    )

    evade: Literal["none", Evadable] = Field(
        "none",
        description="Detector that every attack must fool as well: an image counts only if the detector takes it for "
        "natural, at the threshold that 95 % of the natural test images pass. Detectors fitted to features need the "
        "extra `detectors`.",
    )

    @property
    def outlier_loss(self) -> OutlierLoss:
        """The loss of SFIs in a training."""
        weights = {"outlier_class": 1.0, "outlier_exposure": 0.5}  # as in the papers
        return OutlierLoss(self.loss, self.loss_weight or weights[self.loss])

    def parts(self, num_classes: int) -> tuple[int, int]:
        """Returns how many SFIs of a round train and test later models.

        Raises:
            ValueError: They are more than the cells of a round.
        """
        searched = self.per_class * num_classes
        held_out = self.held_out or max(1, searched // 6 if self.train is None else searched - self.train)
        train = self.train or max(1, searched - held_out)
        if train + held_out > searched:
            raise ValueError(
                f"rounds: {train:,} SFIs to train with and {held_out:,} held out are more than the {searched:,} cells "
                f"of a round (per_class {self.per_class:,}, {num_classes} classes); lower train or "
                "held_out, or raise per_class"
            )
        return train, held_out


class RoundsJob(WholeJob):
    """Rounds of defence and re-attack for `sfi-ray launch`."""

    name: Name = Field(description="Name of the job and of its folder; letters, digits, '.', '_' and '-'.")
    dataset: DatasetSpec = Field(description="Data set with natural images to train and to test with.")
    classifier: ClassifierSpec = Field(
        description="The first model, without an outlier class, trained or read from weights; later ones are the same "
        "network of the zoo, trained from scratch with the same settings."
    )
    rounds: RoundsSettings = Field(description="The number of rounds, and the training of later models.")
    backgrounds: Annotated[Backgrounds, BeforeValidator(_listed, json_schema_input_type=str | Backgrounds)] = Field(
        ("black",), description="Colours: black, gray, white, red, green, blue or '#rrggbb'."
    )
    k: KRange | Annotated[int, Field(ge=1, lt=2**31)] = Field(
        description="Pixels that may be altered: a number, or a range {low, high} that every cell draws from."
    )
    attack: AttackSettings = Field(DifferentialEvolutionAttackSettings(), description="The search, chosen by `kind`.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random draws except those of the first model.")
    verification: Verification = Field(Verification(), description="How stored images are judged.")
    trials: dict[Name, dict[str, Any]] = Field(
        {}, description="Trials by name, each with the keys that it changes; by default a single trial."
    )
    tune: TuneSettings | None = Field(
        None, description="Trials from a parameter space, in the words of Ray Tune; not together with `trials`."
    )
    compute: Compute = Field(Compute(), description="How classifiers compute.")
    cluster: ClusterSettings = Field(
        ClusterSettings(), description="Where the job runs; the bounds of the actors are those of one trial."
    )
    track: Trackers = ()
    output: str = Field("runs", min_length=1, description="Folder or URI that the job's folder is made in.")
    _found: tuple[Mapping[str, Any], ...] = PrivateAttr(())
    """Values of the trials that `tune.search` has drawn, by key."""

    @field_validator("backgrounds", "rounds", "track")
    @classmethod
    def _check_unique(cls, value: Any) -> Any:
        colours = value.final_backgrounds if isinstance(value, RoundsSettings) else value
        twice = next((colour for at, colour in enumerate(colours) if colour in colours[:at]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice; remove one")
        return value

    @field_validator("trials")
    @classmethod
    def _check_trials(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        shared_keys = ("name", "dataset", "classifier", "compute", "cluster", "track", "output", "trials", "tune")
        for name, changes in value.items():
            if name in ("report", "tune"):  # folders beside those of the trials
                raise ValueError(f"a trial cannot be called '{name}', which is another folder of the job; rename it")
            shared = next((key for key in changes if key in shared_keys), None)
            if shared:
                raise ValueError(f"{name}: `{shared}` is the same in all trials; set it once, beside `trials`")
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> RoundsJob:
        if isinstance(self.attack, InversionAttackSettings):
            raise ValueError(
                "attack kind inversion imitates natural images, but rounds attack classes; choose another kind"
            )
        if not self.classifier.source.is_trainable:
            raise ValueError(
                f"classifier: rounds train later models, which needs a network of the zoo rather than one of "
                f"`{self.classifier.source.kind}`; name an `architecture`"
            )
        self._check_evasion()
        self._check_tune()
        self.cluster.check_device(self.compute.device)
        if self.cluster.label_selector:
            raise ValueError(
                "cluster.label_selector: a trial reserves its first actor without labels; leave it out, or name a "
                "custom resource of these nodes in cluster.resources"
            )
        backgrounds = len(self.backgrounds)
        if self.rounds.per_class % backgrounds:
            raise ValueError(
                f"rounds.per_class: {self.rounds.per_class} cells of a class do not divide evenly among {backgrounds} "
                f"backgrounds; use a multiple of {backgrounds}"
            )
        return self

    def _check_evasion(self) -> None:
        if self.rounds.evade == "none":
            return
        if self.rounds.evade == "outlier_class" and not self.rounds.outlier_loss.adds_class:
            raise ValueError(
                f"rounds.evade: rounds.loss {self.rounds.loss} adds no outlier_class; name another detector, or set "
                "the loss to outlier_class"
            )
        # An image that the detector rejects keeps up to half of its confidence.
        confidences = {
            "verification.threshold": self.verification.threshold,
            "attack.stop_confidence": getattr(self.attack, "stop_confidence", None),
        }
        for key, confidence in confidences.items():
            if confidence is not None and confidence <= 0.5:
                raise ValueError(f"{key}: with rounds.evade it must be above 0.5 (found {confidence:g}); raise it")

    def _check_tune(self) -> None:
        if self.tune and self.trials:
            raise ValueError("`trials` names trials, and `tune` draws them; keep one of the two")
        if self.tune and self.rounds.number == 1 and self.tune.metric in ("defence", "combined"):
            raise ValueError(
                f"tune.metric: {self.tune.metric} is an accuracy of later models, and there is one round; take "
                "reattack or natural, or raise rounds.number"
            )
        scheduler = self.tune.scheduler if self.tune else None
        if scheduler and scheduler.grace_period > self.rounds.number - 2:
            raise ValueError(
                f"tune.scheduler.grace_period: after round {scheduler.grace_period}, none of the {self.rounds.number} "
                "rounds is left to save; lower it, raise rounds.number, or leave the scheduler out"
            )

    def drawn(self, name: str) -> dict[str, Any]:
        """Returns the values that `tune` draws for a trial, by key, as the trial reads them; none without `tune`.

        Raises:
            InputError: A value is wrong.
        """
        if self.tune is None:
            return {}
        plain: dict[str, Any] = json.loads(self.trial(name).model_dump_json())
        return {key: value_at(plain, key) for key in self.tune.param_space}

    def unknown_keys(self) -> dict[str, str]:
        """Returns the keys of the parameter space that cannot vary, each with what is wrong and the nearest key."""
        if self.tune is None:
            return {}
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        roots = ("attack", "backgrounds", "k", "rounds", "seed", "verification")
        known = [*keys_of({root: plain[root] for root in roots})]
        known += keys_of(plain["classifier"]["training"], "classifier.training.")
        # A preset and a kind decide the other keys; these are given by now.
        known = [key for key in known if key.rpartition(".")[2] not in ("preset", "kind")]
        wrong = {}
        for key in self.tune.param_space.keys() - set(known):
            ending = [one for one in known if one.endswith(f".{key}")]
            near = ending or difflib.get_close_matches(key[:100], known, n=1, cutoff=0.7)
            mend = f"did you mean '{near[0]}'?" if near else f"keys of {', '.join(roots)} and classifier.training can"
            wrong[key] = f"no key '{key}' can vary between trials; {mend}"
        return wrong

    @property
    def location(self) -> str:
        """Path or URI of the folder that holds the trials' folders."""
        return within(self.output, self.name)

    @property
    def classifiers(self) -> tuple[ClassifierSpec, ...]:
        """The networks that a launch must find: only the first model."""
        return (self.classifier,)

    @property
    def planned_names(self) -> tuple[str, ...]:
        """Names of all trials, in their order."""
        if self.tune is None:
            return tuple(self.trials) or (ONLY_TRIAL,)
        return tuple(f"sample_{number}" for number in range(self.tune.num_trials))

    @property
    def trial_names(self) -> tuple[str, ...]:
        """Names of the trials whose values are known: all, or with `tune.search` those in `with_found`."""
        guided = self.tune is not None and self.tune.search is not None
        return self.planned_names[: len(self._found)] if guided else self.planned_names

    def with_found(self, values: Sequence[Mapping[str, Any]]) -> RoundsJob:
        """Returns the job with the trials that `tune.search` has drawn so far.

        Args:
            values: The values of each trial, by key.
        """
        job = self.model_copy()
        job._found = tuple(values)  # noqa: SLF001
        return job

    def trial_values(self, name: str) -> dict[str, Any]:
        """Returns the keys of one trial: those of the job with the trial's changes; see `merged`."""
        values: dict[str, Any] = json.loads(self.model_dump_json(exclude={"trials", "tune"}))
        return with_values(merged(values, self.trials.get(name, {})), self._sample(name))

    def _sample(self, name: str) -> Mapping[str, Any]:
        if self.tune is None:
            return {}
        number = int(name.rpartition("_")[2])
        return self._found[number] if number < len(self._found) else self.tune.sample(self.seed, number)

    def trial(self, name: str) -> RoundsJob:
        """Returns one trial as a job of its own.

        Raises:
            InputError: A change is wrong.
        """
        return RoundsJob.model_validate(self.trial_values(name))

    def attack_job(
        self,
        name: str,
        *,
        model: str,
        output: str,
        dataset: DatasetSpec,
        backgrounds: tuple[str, ...],
        seed: int,
        num_targets: int,
    ) -> Job:
        """Returns the grid of one attack: every class of the natural images, with the cells of a round.

        Args:
            name: Name of its run.
            model: Name of the attacked model.
            output: Folder or URI of its run.
            dataset: Shape and classes of the model, with an outlier class at the end if it has one.
            backgrounds: Its backgrounds.
            seed: Its seed.
            num_targets: Classes of the natural images, which are the targets.
        """
        return Job(
            name=name,
            dataset=dataset,
            classifiers=(ClassifierSpec(name=model, architecture=self.classifier.network),),
            backgrounds=backgrounds,
            target_classes=tuple(range(num_targets)),
            k=self.k if isinstance(self.k, KRange) else (self.k,),
            replicates=-(-self.rounds.per_class // len(backgrounds)),
            seed=seed,
            attack=self.attack,
            verification=self.verification,
            compute=self.compute,
            cluster=self.cluster,
            output=output,
        )

    def identity(self) -> dict[str, Any]:
        """Returns the keys that decide the results, as plain data: all but the names, places and trackers."""
        where = {"name": True, "cluster": True, "track": True, "output": True, "trials": True, "tune": True}
        # Detectors only measure, so a later launch may add them.
        silent = {"detectors"} if self.rounds.evade != "none" else {"detectors", "evade"}
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude={**where, "rounds": silent}))
        return plain


def rounds_schema_json() -> str:
    """Returns the JSON schema of a job of rounds, for editors that complete and check YAML."""
    return json.dumps(RoundsJob.model_json_schema(), indent=2) + "\n"


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a job with the changes of a trial.

    The keys within `rounds` and `verification` change one by one. Every other key changes as a whole, since settings of
    one kind of attack mean nothing to another.
    """
    result = {**values, **changes}
    for key in ("rounds", "verification"):
        if isinstance(values.get(key), Mapping) and isinstance(changes.get(key), Mapping):
            result[key] = {**values[key], **changes[key]}
    return result
