"""A job: what to search (the grid), how (the attack), and where (the cluster).

Only the first two decide a result; `ClusterSettings` never enter a cell's identity.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from sfi_ray.attacks import AttackSettings, DifferentialEvolutionAttackSettings, InversionAttackSettings
from sfi_ray.data import DatasetSpec, ImageSelection
from sfi_ray.errors import InputError
from sfi_ray.job.problems import problems_of
from sfi_ray.location import within
from sfi_ray.models import Outputs, TrainingSettings, WantedPrecision
from sfi_ray.models.black_boxes.served_model import RequestSettings
from sfi_ray.models.sources import Source
from sfi_ray.models.sources.registry import SOURCES

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class JobPart(BaseModel):
    """A part of a job: immutable, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)  # a record's JSON has no NaN


class WholeJob(JobPart):
    """A whole job. What is wrong with its arguments in Python is an `InputError`, told as of a job file.

    Raises:
        InputError: An argument is unknown, missing or wrong; each has one line, with the nearest name or the mend.
    """

    def __init__(self, **values: Any) -> None:
        with _told(type(self)):
            super().__init__(**values)

    # Pydantic fills a model without calling this constructor.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Reads a job from plain data, as the constructor does from arguments."""
        with _told(cls):
            return super().model_validate(obj, **options)

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """Reads a job from JSON, likewise."""
        with _told(cls):
            return super().model_validate_json(json_data, **options)


@contextlib.contextmanager
def _told(kind: type[WholeJob]) -> Iterator[None]:
    """Tells what pydantic finds wrong with a job as lines of an `InputError`."""
    try:
        yield
    except ValidationError as error:
        raise InputError(*(f"{kind.__name__}: {text}" for _, text in problems_of(error, kind))) from None


def _allow_plain_name(schema: dict[str, Any]) -> None:
    """Lets an editor that checks a job against its JSON schema accept ``mlp`` for ``{name: mlp}``."""
    mapping = dict(schema)
    del mapping["required"]  # `name`, or a key that gives the name
    mapping["anyOf"] = [{"required": [key]} for key in ("name", *ClassifierSpec.naming_keys)]
    schema.clear()
    schema.update(
        title=mapping["title"],
        description="A classifier's name, or a mapping.",
        anyOf=[mapping["properties"]["name"], mapping],
    )


class ClassifierSpec(JobPart):
    """A classifier to attack: trained by the job, read from a file, built by another library, or given in code."""

    model_config = ConfigDict(json_schema_extra=_allow_plain_name)

    #: Keys that the name is taken from where there is none.
    naming_keys: ClassVar[tuple[str, ...]] = ("torchvision", "timm")

    name: Name = Field(description="Its name in results; letters, digits, '.', '_' and '-'.")
    architecture: str | None = Field(None, description="Network of the zoo; by default the one named like `name`.")
    torchvision: str | None = Field(None, description="Network of torchvision, such as resnet50; needs `weights`.")
    timm: str | None = Field(None, description="Network of timm, which the extra `timm` installs.")
    factory: str | None = Field(
        None, description="Your own function that returns the network, written package.module:callable."
    )
    export: str | None = Field(None, description="File that torch.export.save wrote (.pt2): layers and weights.")
    predict: str | None = Field(
        None,
        description="Your own function or class that gives scores of 8-bit images, written package.module:callable.",
    )
    onnx: str | None = Field(None, description="File of an ONNX network; ONNX Runtime, the extra `onnx`, runs it.")
    served: str | None = Field(
        None, description="Address of a served model: http://HOST:PORT/v2/models/NAME (Open Inference Protocol)."
    )
    requests: RequestSettings = Field(RequestSettings(), description="How a served model is asked.")
    weights: str | None = Field(
        None,
        description="Weights to load instead of training: a file of safetensors or of torch.save, also a checkpoint; "
        "for `torchvision` also a member of the network's weights enum, such as IMAGENET1K_V1 or DEFAULT.",
    )
    mean: tuple[float, ...] | None = Field(
        None, min_length=1, description="Mean of each channel that the weights were trained with, of values in [0, 1]."
    )
    std: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, min_length=1, description="Standard deviation of each channel, likewise, above 0."
    )
    outputs: Outputs = Field(
        "logits",
        description="Outputs of the network: logits; probabilities that sum to 1; or sigmoid, an independent number "
        "for each class (multi-label networks, and binary ones with one number for the second class).",
    )
    training: TrainingSettings = Field(TrainingSettings(), description="How to train it, without `weights`.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, Mapping) and "name" not in value:
            named = next((value[key] for key in cls.naming_keys if key in value), None)
            return value if named is None else {"name": named, **value}
        return value

    @model_validator(mode="after")
    def _check_source(self) -> ClassifierSpec:
        kinds = [kind for kind in SOURCES if getattr(self, kind) is not None]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} each name a network; keep one of them")
        if self.requests != RequestSettings() and kinds != ["served"]:
            raise ValueError("`requests` belongs to `served`; remove it")
        if not kinds:
            return self
        kind = SOURCES[kinds[0]]
        if self.weights is None and kind.weights_mend and "weights" not in self.model_fields_set:
            raise ValueError(f"{kind.kind} needs `weights`: {kind.weights_mend}")
        if self.weights is not None and kind.weights_fault:
            raise ValueError(f"{kind.weights_fault}; remove `weights`")
        if self.training != TrainingSettings() and not kind.is_trainable:
            raise ValueError(f"a job trains only networks of the zoo, not those of `{kind.kind}`; remove `training`")
        return self

    @model_validator(mode="after")
    def _check_normalisation(self) -> ClassifierSpec:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std need each other; give both or neither")
        if self.mean is not None and self.source.needs_training:
            raise ValueError("mean and std belong to `weights`; a classifier trained by the job measures its own")
        if self.mean is not None and (fault := self.source.normalisation_fault):
            raise ValueError(f"{fault}; remove mean and std")
        if self.outputs != "logits" and self.source.is_trainable:
            raise ValueError("networks of the zoo give logits; remove `outputs`")
        return self

    @property
    def network(self) -> str:
        """Name of the zoo's network; for another one, its name in the run's record."""
        source = self.source
        return source.what if source.is_trainable else source.describe()

    @property
    def says_normalisation(self) -> bool:
        """Whether the job, or the source of its weights, gives the normalisation; a file of weights does not."""
        return self.weights is None or self.mean is not None

    @property
    def source(self) -> Source:
        """The source of its network."""
        kind = next((kind for kind in SOURCES if getattr(self, kind) is not None), "architecture")
        what = getattr(self, kind) or self.name
        own = {key: getattr(self, key) for key in SOURCES[kind].settings_keys}
        return SOURCES[kind](what=what, weights=self.weights, mean=self.mean, std=self.std, **own)


class KRange(JobPart):
    """A range that every replicate draws its own k from, uniformly."""

    low: int = Field(ge=1, description="Smallest k, included.")
    high: int = Field(ge=1, description="Largest k, included.")

    @model_validator(mode="after")
    def _check_order(self) -> KRange:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high}); swap them")
        return self


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, int | str) and value != "all" else value


_K = Annotated[int, Field(ge=1, lt=2**31)]
_Ks = Annotated[tuple[_K, ...], Field(min_length=1)]
_TargetClass = int | str
_TargetClasses = Annotated[tuple[_TargetClass, ...], Field(min_length=1)]
Backgrounds = Annotated[tuple[str, ...], Field(min_length=1)]
_Classifiers = Annotated[tuple[ClassifierSpec, ...], Field(min_length=1)]
Trackers = Annotated[
    tuple[TrackerName, ...],
    BeforeValidator(_listed, json_schema_input_type=TrackerName | tuple[TrackerName, ...]),
    Field(description="Trackers that follow the run: tensorboard, mlflow, wandb, or a list of them."),
]


class Verification(JobPart):
    """How stored images are judged."""

    threshold: float = Field(0.9, gt=0, le=1, description="Confidence from which a cell counts as fooled, in (0, 1].")


class Compute(JobPart):
    """How classifiers compute. The run records it and a resumed run keeps it, since it decides the last bits."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one.")
    precision: WantedPrecision = Field(
        "auto",
        description="Precision of the search. auto: by rule, for a long search what computes fast on the device; "
        "measured: what a measurement at the first launch finds fastest. Stored confidences are float32.",
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=2**20,
        description="Images of one forward pass, a power of two; null: by input size and device, or for a long search "
        "the fastest one by a measurement at the first launch.",
    )
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of one actor.")

    @field_validator("micro_batch")
    @classmethod
    def _check_power_of_two(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            below = 1 << (value.bit_length() - 1)
            raise ValueError(f"{value} is not a power of two; use {below} or {2 * below}")
        return value


class ActorRange(JobPart):
    """How many actors there may be while the number follows what is left to search."""

    min: int = Field(0, ge=0, le=100_000, description="Actors that stay until the end, also with nothing to search.")
    max: int | None = Field(None, ge=1, le=100_000, description="Actors at most; null sets no bound.")

    @model_validator(mode="after")
    def _check_order(self) -> ActorRange:
        if self.max is not None and self.min > self.max:
            raise ValueError(f"min: {self.min} is more than max: {self.max}; swap them")
        return self


_Actors = Annotated[int, Field(ge=1, le=100_000)]


def _as_range(value: Any) -> Any:
    return value if value is None or isinstance(value, Mapping | ActorRange) else {"max": value}


class ClusterSettings(JobPart):
    """Where a job runs; these settings change no result."""

    actors: Annotated[ActorRange, BeforeValidator(_as_range, json_schema_input_type=_Actors | ActorRange)] | None = (
        Field(
            None,
            description="Actors at most, or a range {min, max}. Their number follows what is left to search; a cluster "
            "that scales gets nodes for them. On this machine, no more than fit. null sets no bound.",
        )
    )
    cpus_per_actor: float | None = Field(None, gt=0, description="CPUs reserved for an actor; null: compute.threads.")
    gpus_per_actor: float | None = Field(
        None, ge=0, description="GPUs reserved for an actor, fractions share one; null: 1 on CUDA, else 0."
    )
    memory_per_actor: int | None = Field(
        None, ge=1, description="Bytes of memory reserved for an actor; null reserves none."
    )
    resources: dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(ge=0)]] = Field(
        {}, description="Custom resources of Ray that an actor reserves, by name."
    )
    accelerator_type: str | None = Field(
        None, min_length=1, description="Kind of GPU that an actor needs, as Ray names it, such as A100; null: any."
    )
    label_selector: dict[str, str] = Field(
        {}, description="Labels that the node of an actor must have, in Ray's form, such as {market-type: spot}."
    )
    in_flight: int = Field(2, ge=1, le=64, description="Shards an actor holds at once, the running one included.")
    retries: int = Field(3, ge=0, le=100, description="How often a shard is searched again before its cells fail.")
    cells_per_shard: int | None = Field(None, ge=1, description="Cells of a shard; null chooses by cost and actors.")
    warm_classifiers: int = Field(4, ge=1, le=1000, description="Classifiers that an actor keeps loaded.")
    flush_seconds: float = Field(10.0, ge=0, description="Finished cells are on disk after this many seconds at most.")
    checkpoint_seconds: float = Field(
        60.0,
        ge=0,
        description="Time between two checkpoints of a search, in seconds; a lost search resumes from the last one.",
    )
    startup_seconds: float = Field(
        120.0,
        gt=0,
        description="Time to wait for the first actor, in seconds; clusters that scale up from zero need minutes.",
    )
    hang_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest silence of an actor that holds cells, in seconds; after it, other actors get its cells.",
    )

    @field_validator("gpus_per_actor", "resources")
    @classmethod
    def _check_whole(cls, value: Any) -> Any:
        for amount in value.values() if isinstance(value, Mapping) else (value or 0,):
            if amount > 1 and amount != int(amount):
                raise ValueError(f"above 1, Ray reserves whole numbers only, got {amount:g}; round it")
        return value

    def check_device(self, device: str) -> None:
        """Checks what an actor reserves against the device that a job names.

        Raises:
            ValueError: It reserves GPUs, and the job computes on the CPU.
        """
        if self.gpus_per_actor and device == "cpu":
            raise ValueError(
                f"cluster.gpus_per_actor: {self.gpus_per_actor:g} would reserve GPUs for actors on the CPU "
                "(compute.device: cpu); set it to 0, or the device to cuda"
            )

    @property
    def min_actors(self) -> int:
        """Actors that stay until the end."""
        return self.actors.min if self.actors else 0

    @property
    def max_actors(self) -> int | None:
        """Actors at most; None sets no bound."""
        return self.actors.max if self.actors else None


class Job(WholeJob):
    """A grid of cells for `sfi-ray launch`."""

    name: Name = Field(description="Name of the run and of its folder; letters, digits, '.', '_' and '-'.")
    dataset: DatasetSpec = Field(
        description="Data set that gives the image size, the class names, and training images."
    )
    classifiers: _Classifiers = Field(description="Classifiers to attack.")
    backgrounds: Backgrounds = Field(
        ("black",), description="Colours: black, gray, white, red, green, blue or '#rrggbb'."
    )
    target_classes: (
        Literal["all"]
        | Annotated[_TargetClasses, BeforeValidator(_listed, json_schema_input_type=_TargetClass | _TargetClasses)]
    ) = Field("all", description="Classes to be predicted: all, or a list of indices or names.")
    k: KRange | Annotated[_Ks, BeforeValidator(_listed, json_schema_input_type=_K | _Ks)] | None = Field(
        None,
        description="Pixels that may be altered: a number, a list, or a range {low, high} to draw from. Only attack "
        "kind inversion goes without: null lets it alter any number.",
    )
    images: ImageSelection | None = Field(
        None, description="Natural images to imitate, with attack kind inversion; by default one of each target class."
    )
    replicates: int = Field(1, ge=1, le=1_000_000, description="Repetitions of every cell with different seeds.")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random draws.")
    attack: AttackSettings = Field(DifferentialEvolutionAttackSettings(), description="The search, chosen by `kind`.")
    verification: Verification = Field(Verification(), description="How stored images are judged.")
    compute: Compute = Field(Compute(), description="How classifiers compute.")
    cluster: ClusterSettings = Field(ClusterSettings(), description="Where the job runs.")
    track: Trackers = ()
    output: str = Field("runs", min_length=1, description="Folder or URI for the run's folder.")

    @field_validator("classifiers", mode="before", json_schema_input_type=ClassifierSpec | _Classifiers)
    @classmethod
    def _list_classifiers(cls, value: Any) -> Any:
        return [value] if isinstance(value, str | Mapping) else value

    @field_validator("backgrounds", mode="before", json_schema_input_type=str | Backgrounds)
    @classmethod
    def _list_backgrounds(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("backgrounds", "k", "target_classes", "classifiers", "track")
    @classmethod
    def _check_unique(cls, values: Any) -> Any:
        if isinstance(values, tuple):
            seen: set[Any] = set()
            for value in values:
                key = value.name if isinstance(value, ClassifierSpec) else value
                if key in seen:
                    raise ValueError(f"{key!r} is listed twice; remove one")
                seen.add(key)
        return values

    @model_validator(mode="after")
    def _check_device(self) -> Job:
        self.cluster.check_device(self.compute.device)
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> Job:
        attack = self.attack
        if self.k is None and not isinstance(attack, InversionAttackSettings):
            raise ValueError(
                "key 'k' is missing; add it. Pixels that may be altered: a number, a list, or a range {low, high} "
                "to draw from. Only attack kind inversion goes without"
            )
        if self.images is not None and not isinstance(attack, InversionAttackSettings):
            raise ValueError(
                f"`images` belongs to attack kind inversion, not to {attack.kind}; remove it or change the kind"
            )
        if isinstance(attack, InversionAttackSettings) and self.replicates > 1 and not attack.start_noise:
            raise ValueError(
                f"replicates: {self.replicates} inversions with the same start have the same result; set replicates to "
                "1, or attack.start_noise above 0"
            )
        return self

    @property
    def selection(self) -> ImageSelection | None:
        """The natural images to imitate; None for attacks that imitate none."""
        if not isinstance(self.attack, InversionAttackSettings):
            return None
        return self.images or ImageSelection(per_class=1)

    @property
    def location(self) -> str:
        """Path or URI of the run's folder."""
        return within(self.output, self.name)

    def identity(self) -> dict[str, Any]:
        """Returns the keys that decide the results, as plain data: all but names, places, requests and trackers."""
        places: Any = {
            **dict.fromkeys(("name", "cluster", "output", "track"), True),
            "classifiers": {"__all__": {"requests"}},
        }
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude=places))
        return plain


def schema_json() -> str:
    """Returns the JSON schema of a job, for editors that complete and check YAML."""
    return json.dumps(Job.model_json_schema(), indent=2) + "\n"
