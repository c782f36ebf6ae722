"""The scorecard of an audit in a versioned form, and its counts from rows. Loads no torch.

For a class, background and seed, k counts as fooling when it or a smaller k fooled. An SFI with fewer altered pixels is
also an SFI with at most k of them (Definition 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfi_ray.errors import InputError

SCORECARD, TEXT, PAGE = "scorecard.json", "scorecard.md", "scorecard.html"
"""The scorecard in the folder of an audit's run: for programs, as Markdown and as a page."""

AUDIT_JOB = "audit.yaml"
"""The grid of an audit as a job file in the same folder."""

ANY = "any"
"""Stands for a background where any background counts."""

FALSE_ALARMS = 0.05
"""Share of natural images that a detector may take for fooling images when it catches SFIs."""

_Unit = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Share(_Part):
    """A share of counted cases, with its interval."""

    count: int = Field(ge=0, description="Number of cases that count.")
    total: int = Field(ge=0, description="Number of cases.")
    share: _Unit | None = Field(description="Ratio of both; null without cases.")
    low: _Unit | None = Field(description="Lower end of Wilson's 95 % interval of a binomial share.")
    high: _Unit | None = Field(description="Upper end of the interval.")
    by_seed: tuple[_Unit | None, ...] = Field(description="The share for each seed alone.")


class FooledShare(Share):
    """Share of classes that k pixels on a background fool; a case is a class and a seed."""

    k: int
    background: str = Field(description="Name of the background; 'any' counts classes fooled on any background.")


class ClassResult(_Part):
    """The smallest k that fools a class."""

    index: int
    name: str
    smallest_k: int | None = Field(description="Smallest k that fooled it on any background with any seed.")
    by_seed: tuple[int | None, ...] = Field(description="The same for each seed alone.")
    by_background: dict[str, int | None] = Field(description="The same for each background alone.")


class BareBackground(_Part):
    """The classifier's answer to a single colour."""

    background: str
    value: tuple[int, ...] = Field(description="8-bit value for each channel.")
    predicted_class: int
    predicted_name: str
    confidence: _Unit


class DetectorResult(Share):
    """Share of fooling images that a detector catches at 5 % false alarms; a case is an image."""

    detector: str
    auroc: _Unit = Field(description="Probability that it rates an SFI as less natural than a natural image.")
    backgrounds_caught: int = Field(description="Number of bare backgrounds that it catches.")


class Audited(_Part):
    """The audited classifier."""

    name: str
    fingerprint: str = Field(description="Hash of the weights.")
    source: str | None = Field(description="Source of its network.")
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="Channels, rows and columns of the images.")
    num_classes: int
    accuracy: _Unit | None = Field(description="Accuracy on natural test images; null without such images.")
    num_natural: int = Field(description="Number of natural test images for accuracy and detectors.")
    outputs: str = Field("logits", description="Outputs of the network: logits, probabilities or sigmoid.")
    remarks: tuple[str, ...] = Field((), description="Reasons to doubt the result, seen before the attack.")


class GridFacts(_Part):
    """The searched grid."""

    standard: int = Field(description="Version of the standard grid that it follows.")
    is_standard: bool = Field(description="Whether it is exactly that grid.")
    backgrounds: tuple[str, ...]
    ks: tuple[int, ...]
    seeds: int
    classes: tuple[int, ...] = Field(description="Indices of the attacked classes.")
    threshold: float = Field(description="Confidence from which a class is fooled.")
    attack: dict[str, Any] = Field(description="Settings of the attack.")


class Costs(_Part):
    """The costs of the audit."""

    cells: int
    failed: int = Field(description="Failed cells; they count as neither fooled nor searched.")
    evaluations: int = Field(description="Images classified by the searches.")
    backward_passes: int = Field(description="Images whose gradients were taken.")
    verifications: int = Field(description="Images classified in float32 for stored confidences; no evaluations.")


class Scorecard(_Part):
    """The outcome of an audit."""

    # The version changes when a key changes its meaning or is removed.
    schema_version: Literal[1] = 1
    model: Audited
    grid: GridFacts
    shares: tuple[FooledShare, ...] = Field(description="For each k, first any background, then each background.")
    classes: tuple[ClassResult, ...]
    backgrounds: tuple[BareBackground, ...]
    detectors: tuple[DetectorResult, ...]
    detectors_missing: str | None = Field(description="Why there are no detectors; null if there are.")
    costs: Costs
    versions: dict[str, str]

    def share(self, k: int, background: str = ANY) -> FooledShare:
        """Returns the share of fooled classes.

        Raises:
            InputError: The audit does not have this k or background.
        """
        for share in self.shares:
            if (share.k, share.background) == (k, background):
                return share
        ks = ", ".join(map(str, self.grid.ks))
        raise InputError(f"the audit has no k = {k} on background '{background}'; its k are {ks}")


def share_of(count: int, total: int, by_seed: Sequence[float | None]) -> dict[str, Any]:
    """Returns the values of a `Share`: the ratio with Wilson's 95 % interval."""
    if not total:
        return {"count": 0, "total": 0, "share": None, "low": None, "high": None, "by_seed": tuple(by_seed)}
    from scipy import stats  # takes a second to import, and a launch reads this module

    interval = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    low, high = max(0.0, float(interval.low)), min(1.0, float(interval.high))
    return {
        "count": count,
        "total": total,
        "share": count / total,
        "low": low,
        "high": high,
        "by_seed": tuple(by_seed),
    }


class FooledCells:
    """Counts which k fooled which class on which background with which seed.

    Args:
        rows: Rows of a run with the columns `columns`; failed cells count as not searched.
        grid: The searched grid.

    Attributes:
        columns: The columns of a run that it needs.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("target_class", "background", "k", "replicate"),
        *("fooled", "confidence", "stop_reason"),
    )

    def __init__(self, rows: Iterable[Mapping[str, Any]], grid: GridFacts) -> None:
        self._grid = grid
        places = (grid.backgrounds, grid.ks, range(grid.seeds), grid.classes)
        self._place = [{value: place for place, value in enumerate(values)} for values in places]
        shape = tuple(map(len, places))
        #: Backgrounds, ks, seeds and classes.
        self._fooled, self._searched = np.zeros(shape, bool), np.zeros(shape, bool)
        for row in rows:
            values = (row["background"], row["k"], row["replicate"], row["target_class"])
            place = tuple(known[value] for known, value in zip(self._place, values, strict=True))
            self._searched[place] = row["stop_reason"] != "failed"
            self._fooled[place] = bool(row["fooled"]) and self._searched[place]
        order = np.argsort(grid.ks)
        self._fooled[:, order] = np.logical_or.accumulate(self._fooled[:, order], axis=1)
        self._searched |= self._fooled

    def shares(self) -> list[FooledShare]:
        """Counts the share of classes for each k, on any background and on each."""
        found = []
        for at_k, k in enumerate(self._grid.ks):
            fooled, searched = self._fooled[:, at_k], self._searched[:, at_k]
            is_any = np.logical_or.reduce(fooled)
            # Where cells failed and no other cell fooled, the outcome is unknown.
            found.append(self._share(k, ANY, is_any, np.logical_and.reduce(searched) | is_any))
            for place, name in enumerate(self._grid.backgrounds):
                found.append(self._share(k, name, fooled[place], searched[place]))
        return found

    def _share(self, k: int, background: str, fooled: NDArray[np.bool_], searched: NDArray[np.bool_]) -> FooledShare:
        """Counts cases, ``(seeds, classes)``."""
        by_seed = [
            float(one[there].mean()) if there.any() else None for one, there in zip(fooled, searched, strict=True)
        ]
        values = share_of(int((fooled & searched).sum()), int(searched.sum()), by_seed)
        return FooledShare(k=k, background=background, **values)

    def classes(self, names: Sequence[str]) -> list[ClassResult]:
        """Finds the smallest k that fools each class."""
        return [
            ClassResult(
                index=index,
                name=names[index],
                smallest_k=self._smallest(self._fooled[..., place]),
                by_seed=tuple(self._smallest(self._fooled[:, :, seed, place]) for seed in range(self._grid.seeds)),
                by_background={
                    name: self._smallest(self._fooled[at : at + 1, ..., place])
                    for at, name in enumerate(self._grid.backgrounds)
                },
            )
            for place, index in enumerate(self._grid.classes)
        ]

    def _smallest(self, fooled: NDArray[np.bool_]) -> int | None:
        """Returns the smallest k with a fooled cell; the second axis is that of the ks."""
        ks = [k for place, k in enumerate(self._grid.ks) if fooled[:, place].any()]
        return min(ks, default=None)


def detector_result(
    detector: str,
    auroc: float,
    scores: NDArray[np.float64],
    seeds: NDArray[np.int64],
    natural: NDArray[np.float64],
    backgrounds: NDArray[np.float64],
    num_seeds: int,
) -> DetectorResult:
    """Counts the images that a detector catches.

    Args:
        detector: Its name.
        auroc: Its AUROC of SFIs against natural images.
        scores: Its scores of images that fool, ``(N,)``; higher means less natural.
        seeds: The seed of each of these images, ``(N,)``.
        natural: Its scores of natural images.
        backgrounds: Its scores of the bare backgrounds.
        num_seeds: Number of seeds.
    """
    # With equal scores, fewer natural images than allowed may exceed the limit, but never more.
    limit = np.quantile(natural, 1 - FALSE_ALARMS, method="higher")
    caught = scores > limit
    by_seed = [float(caught[seeds == seed].mean()) if (seeds == seed).any() else None for seed in range(num_seeds)]
    return DetectorResult(
        detector=detector,
        auroc=auroc,
        backgrounds_caught=int((backgrounds > limit).sum()),
        **share_of(int(caught.sum()), len(caught), by_seed),
    )


def read_scorecard(content: bytes, place: str) -> Scorecard:
    """Reads a scorecard from JSON; messages name its place.

    Raises:
        InputError: It is not a scorecard, or has another version.
    """
    try:
        return Scorecard.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = f"{key}: {first['msg']}" if key else first["msg"]
        version = Scorecard.model_fields["schema_version"].default
        raise InputError(
            f"'{place}' is not a scorecard of version {version} ({what}); audit the model again with this version"
        ) from error
