"""Trials of rounds from a parameter space: what varies, how many trials there are, and when one ends early.

The words are those of Ray Tune. Without a search, the seed, the key and the trial's number decide a value, on any
machine. With one, values follow from the results of earlier trials; see `sfi_ray.rounds.parameter_search`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from operator import getitem
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sfi_ray.grid import derive_seed
from sfi_ray.job.schema import JobPart

_Options = Annotated[tuple[Any, ...], Field(min_length=1)]
_Above0 = Annotated[float, Field(gt=0)]


class Domain(JobPart):
    """The values of one key of a parameter space, in one of these forms."""

    grid: _Options | None = Field(None, description="Values that are all tried, with all those of other grids.")
    choice: _Options | None = Field(None, description="Values to draw from, each as likely as another.")
    uniform: tuple[float, float] | None = Field(None, description="Range [low, high] to draw a number from, evenly.")
    loguniform: tuple[_Above0, _Above0] | None = Field(
        None, description="Range [low, high] above 0 to draw a number from, evenly in its logarithm."
    )
    randint: tuple[int, int] | None = Field(
        None, description="Range [low, high) to draw a whole number from, evenly; it leaves out high."
    )
    lograndint: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = Field(
        None, description="Range [low, high) from 1 to draw a whole number from, evenly in its logarithm."
    )

    @model_validator(mode="after")
    def _check_one(self) -> Domain:
        forms = type(self).model_fields
        given = [form for form in forms if getattr(self, form) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(forms)}, such as {{uniform: [0.1, 0.5]}}")
        if not self.options and not self.bounds[0] < self.bounds[1]:
            low, high = self.bounds
            raise ValueError(f"{given[0]}: the low end, {low:g}, is not below the high end, {high:g}; swap them")
        return self

    @property
    def form(self) -> str:
        """The name of its form, such as ``uniform``."""
        return next(form for form in type(self).model_fields if getattr(self, form) is not None)

    @property
    def options(self) -> tuple[Any, ...]:
        """The values of a grid or a choice; none for a range."""
        return self.grid or self.choice or ()

    @property
    def bounds(self) -> tuple[float, float]:
        """The two ends of a range."""
        low, high = getattr(self, self.form)
        return low, high

    def value(self, share: float) -> Any:
        """Returns the value below which a share of the draws lies.

        Args:
            share: In [0, 1).
        """
        if self.options:
            return self.options[int(share * len(self.options))]
        low, high = self.bounds
        if self.form.startswith("log"):
            drawn = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            drawn = low + share * (high - low)
        return self.rounded(drawn)

    def rounded(self, drawn: float) -> float:
        """Returns a number of the range as a trial takes it: whole, or with six digits.

        So a logarithm that another machine rounds otherwise changes nothing.
        """
        low, high = self.bounds
        if self.form.endswith("randint"):
            return min(int(float(f"{drawn:.12g}")), int(high) - 1)
        return min(max(float(f"{drawn:.6g}"), low), high)


class Asha(JobPart):
    """Asynchronous successive halving: a trial that does worse than most ends early."""

    kind: Literal["asha"] = Field(description="asha, Ray Tune's ASHAScheduler.")
    grace_period: int = Field(1, ge=1, description="Number of the first round after which a trial may end.")
    reduction_factor: float = Field(
        4.0, gt=1, le=100, description="Of so many trials one goes on at each comparison; the next is so much later."
    )


class OptunaSearch(JobPart):
    """Values that Optuna chooses from the results of earlier trials."""

    kind: Literal["optuna"] = Field(description="optuna, one of its samplers.")
    sampler: Literal["gp", "tpe"] = Field(
        "gp", description="gp, a Gaussian process, for up to some hundred trials; tpe, Parzen estimators, for more."
    )
    batch_size: int = Field(
        4, ge=1, le=1000, description="Trials that run side by side; the next ones follow from their results."
    )


class TuneSettings(JobPart):
    """Trials whose values Ray Tune's words describe."""

    param_space: dict[str, Domain] = Field(
        min_length=1, description="Keys of the job, such as rounds.per_class, each with the values that trials take."
    )
    num_samples: int = Field(
        1, ge=1, le=10_000, description="Draws; every draw is made for each combination of the grids' values."
    )
    metric: Literal["reattack", "natural", "defence", "combined"] = Field(
        "reattack", description="Accuracy that search and scheduler compare trials by: that of the latest model."
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="Whether a low or a high metric is better; null: min for reattack, max for the others."
    )
    search: OptunaSearch | None = Field(
        None, description="What learns from earlier trials; null draws every value by itself."
    )
    scheduler: Asha | None = Field(None, description="What ends trials early; null lets all come to their end.")

    @model_validator(mode="after")
    def _check_number(self) -> TuneSettings:
        most = 10_000
        gridded = next((key for key, domain in self.param_space.items() if domain.grid), None)
        if self.search and gridded:
            raise ValueError(f"search: '{gridded}' has a grid, whose values are all tried; make it a choice")
        if self.num_trials > most:
            raise ValueError(
                f"num_samples and the grids make {self.num_trials:,} trials, more than {most:,}; lower them"
            )
        return self

    @property
    def chosen_mode(self) -> Literal["min", "max"]:
        """The mode, also where the job leaves it out."""
        return self.mode or ("min" if self.metric == "reattack" else "max")

    @property
    def num_trials(self) -> int:
        """Number of trials."""
        return self.num_samples * math.prod(len(domain.grid) for domain in self.param_space.values() if domain.grid)

    def corners(self) -> list[dict[str, Any]]:
        """Returns values of trials that have, between them, every option and both ends of every range."""
        ends = {
            key: domain.options or tuple(map(domain.rounded, domain.bounds)) for key, domain in self.param_space.items()
        }
        most = max(map(len, ends.values()))
        return [{key: values[number % len(values)] for key, values in ends.items()} for number in range(most)]

    def sample(self, seed: int, number: int) -> dict[str, Any]:
        """Returns the values of one trial by key; they do not depend on how many trials there are.

        Args:
            seed: Decides the draws, together with key and number.
            number: Number of the trial, from 0; the last grid varies fastest.
        """
        values, rest = {}, number
        for key, domain in reversed(self.param_space.items()):
            if domain.grid:
                rest, place = divmod(rest, len(domain.grid))
                values[key] = domain.grid[place]
            else:
                values[key] = domain.value(derive_seed(seed, f"{key}|{number}") / 2**63)
        return {key: values[key] for key in self.param_space}


def with_values(job: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a job with some of them set.

    Args:
        job: The job as plain data, with all its defaults.
        values: New values, by keys such as ``classifier.training.learning_rate``.
    """
    result = dict(job)
    for key, value in values.items():
        *folders, last = key.split(".")
        inner = result
        for folder in folders:
            inner[folder] = dict(inner[folder])
            inner = inner[folder]
        inner[last] = value
    return result


def value_at(job: Mapping[str, Any], key: str) -> Any:
    """Returns the value of a key of a job, such as ``classifier.training.learning_rate``, from plain data."""
    return functools.reduce(getitem, key.split("."), job)


def keys_of(job: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the keys of a job that a space may vary, at any depth.

    Args:
        job: The job, or a part of it, as plain data with all its defaults.
        prefix: The key of that part, with a dot at its end.
    """
    for key, value in job.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from keys_of(value, f"{prefix}{key}.")
