"""Values of trials that follow from the results of earlier trials (`tune.search`).

Trials come in batches. Optuna chooses the values of a batch once all earlier trials have ended. So the order in which
they end decides nothing, and a launch that resumes keeps the values that its trials have.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sfi_ray.errors import START_OVER, InputError
from sfi_ray.grid import derive_seed
from sfi_ray.job import RoundsJob, TuneSettings
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.text import MOST_REASON, printable

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial


def with_trials(job: RoundsJob, results: Mapping[str, TrialResults] | None = None) -> RoundsJob:
    """Returns a job with every trial whose values can be known: those there are, and one batch after all have ended.

    Args:
        job: The job; without `tune.search` it comes back as it is.
        results: What is known of its trials, by name.

    Raises:
        InputError: Optuna is not installed, or the trials are of another parameter space.
    """
    if job.tune is None or job.tune.search is None:
        return job
    if not find_spec("optuna"):
        raise InputError("tune.search: it needs the package optuna; install it with: uv sync --extra optuna")
    space, known, names = _Space(job, job.tune), results or {}, job.planned_names
    for name in names:
        if name in known and not space.has(known[name].drawn):
            said = printable(", ".join(f"{key} {value}" for key, value in known[name].drawn.items()), MOST_REASON)
            raise InputError(
                f"tune.param_space: trial {name} of an earlier launch has other values ({said}); give the job another "
                f"name, or {START_OVER}"
            )
    found: list[Mapping[str, Any]] = []
    for start in range(0, len(names), job.tune.search.batch_size):
        batch = [known.get(name) for name in names[start : start + job.tune.search.batch_size]]
        chosen = iter(space.ask(batch.count(None), [known[name] for name in names[:start]], start))
        found += [trial.drawn if trial else next(chosen) for trial in batch]
        if not all(trial and trial.is_complete for trial in batch):
            break
    return job.with_found(found)


class _Space:
    """A parameter space in Optuna's words; a choice counts by its place."""

    def __init__(self, job: RoundsJob, tune: TuneSettings) -> None:
        self._seed, self._tune = job.seed, tune
        # As the job reads them, and as results have them: YAML takes 1e-4 for text.
        self._options = {
            key: [job.with_found([{key: option}]).drawn("sample_0")[key] for option in domain.options]
            for key, domain in tune.param_space.items()
        }

    def has(self, values: Mapping[str, Any]) -> bool:
        """Whether a trial of this space can have these values."""
        if values.keys() != self._tune.param_space.keys():
            return False
        for key, domain in self._tune.param_space.items():
            value = values[key]
            if domain.options:
                fits = value in self._options[key]
            else:
                fits = isinstance(value, int | float) and domain.bounds[0] <= value <= domain.bounds[1]
            if not fits:
                return False
        return True

    def ask(self, count: int, earlier: Sequence[TrialResults], start: int) -> list[dict[str, Any]]:
        """Returns the values of some trials.

        Args:
            count: Their number.
            earlier: All trials of earlier batches.
            start: Number of the batch's first trial, which decides its draws together with the job's seed.
        """
        import optuna

        settings = self._tune.search
        if not count or settings is None:
            return []
        seed = derive_seed(self._seed, f"tune.search|{start}") % 2**32
        samplers = {"gp": optuna.samplers.GPSampler, "tpe": optuna.samplers.TPESampler}
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it logs every trial
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = samplers[settings.sampler](seed=seed, n_startup_trials=settings.batch_size)
            is_lower_better = self._tune.chosen_mode == "min"
            study = optuna.create_study(sampler=sampler, direction="minimize" if is_lower_better else "maximize")
            study.add_trials([told for trial in earlier if (told := self._told(trial))])
            asked = [study.ask(self._distributions()) for _ in range(count)]
        return [{key: self._value(key, one.params[key]) for key in self._tune.param_space} for one in asked]

    def _distributions(self) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        found: dict[str, BaseDistribution] = {}
        for key, domain in self._tune.param_space.items():
            if domain.options:
                found[key] = CategoricalDistribution(range(len(domain.options)))
                continue
            low, high = domain.bounds
            is_log = domain.form.startswith("log")
            if domain.form.endswith("randint"):
                found[key] = IntDistribution(int(low), int(high) - 1, log=is_log)
            else:
                found[key] = FloatDistribution(low, high, log=is_log)
        return found

    def _value(self, key: str, param: float) -> Any:
        domain = self._tune.param_space[key]
        return self._options[key][int(param)] if domain.options else domain.rounded(param)

    def _told(self, trial: TrialResults) -> FrozenTrial | None:
        """Returns a trial as Optuna is told of it; None where its latest model lacks the metric."""
        from optuna.trial import create_trial

        shares = trial.rounds[-1].shares if trial.rounds else {}
        metric = shares.get("re-attack" if self._tune.metric == "reattack" else self._tune.metric)
        if metric is None:
            return None
        params = {
            key: options.index(trial.drawn[key]) if (options := self._options[key]) else trial.drawn[key]
            for key in self._tune.param_space
        }
        return create_trial(params=params, distributions=self._distributions(), value=metric)
