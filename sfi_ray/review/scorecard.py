"""The scorecard of an audit, with a versioned form, and how it is counted from rows. Loads no torch.

Of a class, background and seed, k counts as fooling when it or a smaller k fooled: an SFI of fewer altered pixels is
one of at most k, too (Definition 1).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy import stats

from sfi_ray.errors import InputError

SCHEMA_VERSION = 1
"""Version of the form; it changes when a key changes its meaning or goes."""

SCORECARD, TEXT, PAGE = "scorecard.json", "scorecard.md", "scorecard.html"
"""The scorecard in the folder of an audit's run, for programs, as Markdown and as a page."""

AUDIT_JOB = "audit.yaml"
"""The grid of an audit as a job file, beside them."""

ANY = "any"
"""What stands for a background where any of them counts."""

CONFIDENCE_LEVEL = 0.95
"""Of all intervals."""

FALSE_ALARMS = 0.05
"""Share of natural images that a detector may take for fooling ones, where it is asked which SFIs it catches."""

COLUMNS = ("target_class", "background", "k", "replicate", "fooled", "confidence", "stop_reason")
"""Columns of a run's rows that a scorecard is counted from."""

_Unit = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Share(_Part):
    """A share of counted cases, with what it could be."""

    count: int = Field(ge=0, description="Cases that count.")
    total: int = Field(ge=0, description="Cases.")
    share: _Unit | None = Field(description="Their ratio; null where there is no case.")
    low: _Unit | None = Field(description="Lower end of Wilson's 95 % interval of a binomial share.")
    high: _Unit | None = Field(description="Its upper end.")
    by_seed: tuple[_Unit | None, ...] = Field(description="The share for each seed alone.")


class FooledShare(Share):
    """Share of classes that k pixels on a background fool; a case is a class and a seed."""

    k: int
    background: str = Field(description="Its name; 'any' where a class counts that is fooled on any of them.")


class ClassResult(_Part):
    """What it takes to fool a class."""

    index: int
    name: str
    smallest_k: int | None = Field(description="Smallest k that fooled it, on any background, with any seed.")
    by_seed: tuple[int | None, ...] = Field(description="The same for each seed alone.")
    by_background: dict[str, int | None] = Field(description="The same for each background alone.")


class BareBackground(_Part):
    """What the classifier says of a single colour."""

    background: str
    value: tuple[int, ...] = Field(description="8-bit value for each channel.")
    predicted_class: int
    predicted_name: str
    confidence: _Unit


class DetectorResult(Share):
    """How many of the images that fool a detector would have caught at 5 % false alarms; a case is an image."""

    detector: str
    auroc: _Unit = Field(description="Probability that it finds an SFI less natural than a natural image.")
    backgrounds_caught: int = Field(description="Bare backgrounds that it would have caught.")


class Audited(_Part):
    """Who was audited."""

    name: str
    fingerprint: str = Field(description="Hash of the weights.")
    source: str | None = Field(description="What it was built from.")
    dataset: str
    input_shape: tuple[int, int, int] = Field(description="Channels, rows and columns of the images.")
    num_classes: int
    accuracy: _Unit | None = Field(description="On the natural test images below; null where there are none.")
    num_natural: int = Field(description="Natural test images that accuracy and detectors were measured on.")
    outputs: str = Field("logits", description="What the network gives: logits, probabilities or sigmoid.")
    remarks: tuple[str, ...] = Field((), description="What was seen before the attack that makes its result doubtful.")


class GridFacts(_Part):
    """What was searched."""

    standard: int = Field(description="Version of the standard grid that it follows.")
    is_standard: bool = Field(description="Whether it is that grid, and not a smaller or larger one of that form.")
    backgrounds: tuple[str, ...]
    ks: tuple[int, ...]
    seeds: int
    classes: tuple[int, ...] = Field(description="Indices of the classes that were attacked.")
    threshold: float = Field(description="Confidence from which a class is fooled.")
    attack: dict[str, Any] = Field(description="The attack's settings.")


class Costs(_Part):
    """What it took."""

    cells: int
    failed: int = Field(description="Cells that failed; they count as neither fooled nor searched.")
    evaluations: int = Field(description="Images classified to search.")
    backward_passes: int = Field(description="Images whose gradients were taken.")
    verifications: int = Field(description="Images classified in float32 to say what is stored; no evaluations.")


class Scorecard(_Part):
    """The outcome of an audit."""

    schema_version: Literal[1] = 1
    model: Audited
    grid: GridFacts
    shares: tuple[FooledShare, ...] = Field(description="For each k, any background first, then each.")
    classes: tuple[ClassResult, ...]
    backgrounds: tuple[BareBackground, ...]
    detectors: tuple[DetectorResult, ...]
    detectors_missing: str | None = Field(description="Why there are no detectors; null where there are.")
    costs: Costs
    versions: dict[str, str]

    def share(self, k: int, background: str = ANY) -> FooledShare:
        """Returns the share of classes fooled.

        Raises:
            InputError: The audit had no such k or background.
        """
        for share in self.shares:
            if (share.k, share.background) == (k, background):
                return share
        ks = ", ".join(map(str, self.grid.ks))
        raise InputError(f"the audit has no k = {k} on background '{background}'; its k are {ks}")


def counted(count: int, total: int, by_seed: Sequence[float | None]) -> dict[str, Any]:
    """Returns the values of a `Share`: the ratio with Wilson's interval."""
    if not total:
        return {"count": 0, "total": 0, "share": None, "low": None, "high": None, "by_seed": tuple(by_seed)}
    interval = stats.binomtest(count, total).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
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
    """Which k fooled which class on which background with which seed.

    Args:
        rows: Rows of a run with `COLUMNS`; those of failed cells count as not searched.
        grid: What was searched.
    """

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
            # Where cells failed and no other fooled, nobody knows.
            found.append(self._share(k, ANY, is_any, np.logical_and.reduce(searched) | is_any))
            for place, name in enumerate(self._grid.backgrounds):
                found.append(self._share(k, name, fooled[place], searched[place]))
        return found

    def _share(self, k: int, background: str, fooled: NDArray[np.bool_], searched: NDArray[np.bool_]) -> FooledShare:
        """Counts cases, ``(seeds, classes)``."""
        by_seed = [
            float(one[there].mean()) if there.any() else None for one, there in zip(fooled, searched, strict=True)
        ]
        values = counted(int((fooled & searched).sum()), int(searched.sum()), by_seed)
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
    """Counts what a detector would have caught.

    Args:
        detector: Its name.
        auroc: How well it tells SFIs from natural images.
        scores: Its scores of images that fool, ``(N,)``; the higher, the less natural.
        seeds: The seed of each, ``(N,)``.
        natural: Its scores of natural images.
        backgrounds: Its scores of the bare backgrounds.
        num_seeds: How many seeds there are.
    """
    # With scores that many images share, fewer are above it than may be, and never more.
    limit = np.quantile(natural, 1 - FALSE_ALARMS, method="higher")
    caught = scores > limit
    by_seed = [float(caught[seeds == seed].mean()) if (seeds == seed).any() else None for seed in range(num_seeds)]
    return DetectorResult(
        detector=detector,
        auroc=auroc,
        backgrounds_caught=int((backgrounds > limit).sum()),
        **counted(int(caught.sum()), len(caught), by_seed),
    )


def read_scorecard(content: bytes, place: str) -> Scorecard:
    """Reads a scorecard.

    Args:
        content: JSON.
        place: Where it is from, for messages.

    Raises:
        InputError: It is none, or one of another version.
    """
    try:
        return Scorecard.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        what = f"{key}: {first['msg']}" if key else first["msg"]
        raise InputError(
            f"'{place}' is no scorecard of version {SCHEMA_VERSION} ({what}); audit the model again with this version"
        ) from error
