"""The attacks a job can name, and their settings, told apart by `kind`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter

from sfi_ray.attacks.attack import Attack
from sfi_ray.attacks.inversion import InversionAttack
from sfi_ray.attacks.kind import AttackKind
from sfi_ray.attacks.map_elites import MapElitesAttack
from sfi_ray.attacks.own_search import own_attack, pack_search, search_digest, search_place, unpack_search
from sfi_ray.attacks.run import StoppingSettings
from sfi_ray.errors import InputError, named
from sfi_ray.models import Classifier
from sfi_ray.presets import Presets, PresetSettings, preset_field
from sfi_ray.search import (
    DifferentialEvolution,
    DifferentialEvolutionSettings,
    GradientSearch,
    GradientSettings,
    InversionSettings,
    MapElitesSettings,
    NevergradSettings,
    Search,
    SelfAdaptiveEvolution,
    SelfAdaptiveSettings,
    SparseRandomSearch,
    SparseRandomSettings,
)
from sfi_ray.text import printable

#: Settings of differential evolution by name: the experiments of the paper, and two for small machines.
DIFFERENTIAL_EVOLUTION_PRESETS: Presets = {
    "paper": {"population_size": 500, "generations": 3000},  # Section 5.2, CIFAR-10
    "paper_architectures": {
        "population_size": 500,
        "generations": 1000,
    },  # Section 5.6, MNIST and Fashion-MNIST
    "paper_imagenet": {"population_size": 500, "generations": 500},  # Section 5.2, ImageNet
    "paper_centipede": {"population_size": 1000, "generations": 30_000},  # Section 5.2, Figure 1
    "paper_defence": {"population_size": 500, "generations": 3000, "stop_confidence": 0.9},  # Section 5.7
    "small": {"population_size": 100, "generations": 100},
    "medium": {"population_size": 100, "generations": 400},
}


def _attack_by(make: Callable[..., Search], settings: Any, num_candidates: int, max_backward_passes: int = 0) -> Attack:
    """Makes the attack of a search with its settings, which also say when a cell stops."""
    return Attack(
        lambda space, device: make(space, settings, device),
        num_candidates=num_candidates,
        max_evaluations=settings.max_evaluations,
        max_backward_passes=max_backward_passes,
        stopping=settings,
    )


class DifferentialEvolutionAttackSettings(DifferentialEvolutionSettings, StoppingSettings, PresetSettings, AttackKind):
    """The paper's class-targeted attack (Section 3.1)."""

    PRESETS: ClassVar[Presets] = DIFFERENTIAL_EVOLUTION_PRESETS

    kind: Literal["de"] = Field("de", description="Differential evolution, DE/rand/1, as in Section 3.1.")
    preset: str | None = preset_field(DIFFERENTIAL_EVOLUTION_PRESETS)

    def build(self) -> Attack:
        """Makes the attack."""
        return _attack_by(DifferentialEvolution, self, self.population_size)


class SelfAdaptiveAttackSettings(SelfAdaptiveSettings, StoppingSettings, AttackKind):
    """Differential evolution whose members carry their own settings."""

    kind: Literal["jde"] = Field(description="Self-adaptive differential evolution, jDE (Brest et al. 2006).")

    def build(self) -> Attack:
        """Makes the attack."""
        return _attack_by(SelfAdaptiveEvolution, self, self.population_size)


class SparseRandomAttackSettings(SparseRandomSettings, StoppingSettings, AttackKind):
    """Random search that replaces a few pixels of one candidate at a time."""

    kind: Literal["sparse_rs"] = Field(description="Sparse random search, Sparse-RS for l0 (Croce et al. 2022).")

    def build(self) -> Attack:
        """Makes the attack."""
        return _attack_by(SparseRandomSearch, self, self.num_candidates)


class MapElitesAttackSettings(MapElitesSettings, StoppingSettings, AttackKind):
    """A search that the classes of a background, k and replicate share."""

    shares_classes: ClassVar[bool] = True
    most_channels: ClassVar[int] = 8

    kind: Literal["map_elites"] = Field(description="One archive of the best candidates of every class, shared by all.")
    transfer_from: str | None = Field(
        None,
        min_length=1,
        description="Folder or URI of an earlier run, such as one of another classifier, whose images a class begins "
        "with: the best ones of its background and name with at most k pixels, and at most as many as a generation "
        "has candidates; null for none.",
    )

    def build(self) -> Attack:
        """Makes the attack."""
        return MapElitesAttack(self, self)

    @property
    def needs_inside(self) -> bool:
        """Whether gradients lead candidates; see `AttackKind.needs_inside`."""
        return self.gradient_share > 0

    @property
    def starts_from(self) -> str | None:
        """The earlier run whose images classes begin with; see `AttackKind.starts_from`."""
        return self.transfer_from

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide results; the images of the earlier run decide, not its place."""
        return {key: value for key, value in super().identity().items() if key != "transfer_from"}

    @property
    def shares_ks(self) -> bool:
        """Whether a k begins with the images of smaller ones; see `AttackKind.shares_ks`."""
        return self.begins_with == "smaller_k"


class NevergradAttackSettings(NevergradSettings, StoppingSettings, AttackKind):
    """Any optimiser of nevergrad."""

    kind: Literal["nevergrad"] = Field(description="An optimiser of nevergrad's registry.")

    def build(self) -> Attack:
        """Makes the attack."""
        from sfi_ray.attacks.nevergrad import NevergradAttack  # imports nevergrad, which takes seconds

        return NevergradAttack(self, self)

    def check(self) -> None:
        """Checks that nevergrad has the optimiser and its requirements.

        Raises:
            InputError: It has not.
        """
        from sfi_ray.search.nevergrad.search import check_optimizer  # imports nevergrad, which takes seconds

        with named("attack.optimizer"):
            check_optimizer(self.optimizer)


class InversionAttackSettings(InversionSettings, AttackKind):
    """The paper's image-targeted attack (Section 3.2)."""

    looks_inside: ClassVar[bool] = True

    kind: Literal["inversion"] = Field(description="Deep feature inversion of natural images, as in Section 3.2.")

    def build(self) -> Attack:
        """Makes the attack."""
        return InversionAttack(self)

    def check_channels(self, channels: int) -> None:
        """Checks that the natural images, which a run keeps as PNG files, are gray or RGB."""
        if channels not in (1, 3):
            raise InputError(f"attack: this kind takes images of 1 or 3 channels, and the data set has {channels}")

    def check_classifier(self, classifier: Classifier) -> None:
        """Checks that a classifier has the layer; see `AttackKind.check_classifier`."""
        super().check_classifier(classifier)
        blank = torch.zeros(1, *classifier.input_shape, device=classifier.device)
        with named(f"classifier '{classifier.name}': attack.layer"):
            classifier.features(blank, self.layer)


class GradientAttackSettings(GradientSettings, StoppingSettings, AttackKind):
    """A search of at most k pixels that uses the classifier's gradients."""

    most_channels: ClassVar[int] = 8

    kind: Literal["gradient"] = Field(description="Gradients propose pixels and colours, and forward passes choose.")

    @property
    def needs_inside(self) -> bool:
        """Gradients lead it; see `AttackKind.needs_inside`."""
        return True

    def build(self) -> Attack:
        """Makes the attack."""
        # A generation is one gradient and its proposals.
        num_gradients = -(-self.max_evaluations // (1 + self.proposals))
        return _attack_by(GradientSearch, self, self.proposals, num_gradients)


class OwnSearchAttackSettings(StoppingSettings, AttackKind):
    """A search of the user's own; further keys are those of the class's `Settings`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Literal["search"] = Field("search", description="A search of the user's own, named by `search`.")
    search: str = Field(
        min_length=1,
        description="Import path of a subclass of sfi_ray.search.Search, package.module:Class; further keys belong to "
        "its Settings.",
    )

    def build(self) -> Attack:
        """Makes the attack."""
        return own_attack(self.search, dict(self.model_extra or {}), self)

    def check(self) -> None:
        """Imports the search and reads its settings; see `AttackKind.check`."""
        self.build()

    def pack(self) -> bytes | None:
        """Returns the class of the search; see `AttackKind.pack`."""
        return pack_search(self.search)

    def unpack(self, packed: bytes) -> None:
        """Takes the class of the search; see `AttackKind.unpack`."""
        unpack_search(self.search, packed)

    def code_place(self) -> Path | None:
        """Returns the place of the search's code; see `AttackKind.code_place`."""
        return search_place(self.search)

    @property
    def code_digest(self) -> str | None:
        """A hash of the search's source; see `AttackKind.code_digest`."""
        return search_digest(self.search)


def _default_kind(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "search" in value and value.get("kind", "search") != "search":
        raise ValueError(
            f"`kind: {printable(value['kind'], 60)}` and `search` exclude each other, since `search` names a class of "
            "your own; remove one of the two"
        )
    return {"kind": "search" if "search" in value else "de", **value}


#: Settings of any attack, told apart by `kind`; without one they are those of differential evolution.
AttackSettings = Annotated[
    Annotated[
        DifferentialEvolutionAttackSettings
        | SelfAdaptiveAttackSettings
        | MapElitesAttackSettings
        | SparseRandomAttackSettings
        | NevergradAttackSettings
        | InversionAttackSettings
        | GradientAttackSettings
        | OwnSearchAttackSettings,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_default_kind),
]

_ADAPTER: TypeAdapter[AttackSettings] = TypeAdapter(AttackSettings)


def read_attack_settings(values: object) -> AttackSettings:
    """Reads the settings of an attack.

    Args:
        values: A mapping as in a job; without `kind` it is differential evolution's.

    Raises:
        pydantic.ValidationError: They are not the settings of an attack.
    """
    return _ADAPTER.validate_python(values)
