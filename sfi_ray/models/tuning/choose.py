"""Chooses the runtime configuration of a network: the fastest one by measurement, or the first fit one by rule.

Where a job states the precision, a measurement chooses among configurations with the bits of the one by rule, so that
it cannot change a result. Where the job leaves the precision open, log-probabilities must be near those of float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from sfi_ray.models.runners.precision import Precision
from sfi_ray.models.runners.runtime import Engine, MemoryLayout, RuntimeConfig


class Choice(BaseModel):
    """A chosen runtime configuration and its speed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runtime: RuntimeConfig
    rate: float = Field(ge=0, description="Images a second.")
    rate_by_rule: float = Field(ge=0, description="Images a second of the runtime configuration by rule.")
    seconds: float = Field(ge=0, description="Time that measuring took.")

    @property
    def gain(self) -> float:
        """How many times faster than by rule."""
        return self.rate / self.rate_by_rule if self.rate_by_rule else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options besides the runtime configuration by rule.

    Attributes:
        precisions: Other precisions.
        layouts: Other memory layouts.
        micro_batches: Powers of two, the rule's among them, from the smallest to the largest.
        can_replay: Whether graphs can be replayed.
        can_compile: Whether torch.compile exists here and is worth its time.
        engines: Libraries besides torch that run a network.
        can_reuse: Whether the first layers may run at altered pixels only.
    """

    precisions: tuple[Precision, ...] = ()
    layouts: tuple[MemoryLayout, ...] = ()
    micro_batches: tuple[int, ...]
    can_replay: bool = False
    can_compile: bool = False
    engines: tuple[Engine, ...] = ()
    can_reuse: bool = False


class Measurement(Protocol):
    """Tries runtime configurations of one network on one device."""

    def rate(self, runtime: RuntimeConfig) -> float | None:
        """Measures images a second; None where the network does not run so."""
        ...

    def is_fit(self, runtime: RuntimeConfig) -> bool:
        """Whether its outputs may be used."""
        ...


def choose(
    rule: RuntimeConfig,
    options: Options,
    measurement: Measurement,
    *,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Chooses the fastest fit runtime configuration, one part after another.

    First it tries every precision, which may gain most, and the fastest of them through every other engine. Then, for
    the fastest first, it tries the layout, and the micro-batch, halved or doubled while that helps. The best one of
    torch is replayed as a graph, if that helps. The first layers of the best one run at altered pixels only, if that
    helps. Last, the best one of torch is compiled. Only a faster configuration is checked for fitness.

    Args:
        rule: The configuration by rule; it needs no check.
        options: Its alternatives.
        measurement: Tries runtime configurations.
        seconds: No measurement begins later than this.
        clock: Returns the time in seconds.
    """
    comparison = _Comparison(measurement, clock, seconds)
    rate = comparison.rate(rule)
    first = _Runner(rule, rate or 0.0)
    if rate is None:
        return Choice(runtime=rule, rate=0.0, rate_by_rule=0.0, seconds=comparison.spent())
    heads = comparison.refined_heads(first, options)
    own = best = comparison.best([head for head in heads if head.runtime.engine == "torch"])
    if options.can_replay:
        own = best = comparison.improved(own, comparison.least_gain, uses_graphs=True)
    best = comparison.best([best, *(head for head in heads if head.runtime.engine != "torch")])
    if options.can_reuse:
        best = comparison.improved(best, comparison.least_gain_at_cost, reuses_background=True)
    if options.can_compile:
        compiled = own.runtime.changed(is_compiled=True)
        best = comparison.challenged(compiled, best.rate * comparison.least_gain_at_cost) or best
    if best.runtime != rule:
        # A machine that was busy when the rule was measured must not decide for the other.
        again = comparison.rate(rule)
        first = _Runner(rule, max(first.rate, again or 0.0))
        if best.rate <= first.rate * comparison.least_gain:
            best = first
    return Choice(runtime=best.runtime, rate=best.rate, rate_by_rule=first.rate, seconds=comparison.spent())


def first_fit(
    rule: RuntimeConfig,
    others: Sequence[RuntimeConfig],
    measurement: Measurement,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Chooses the first runtime configuration that runs and is fit, however fast it is.

    Rates are measured to be told only: the same network, device and packages give the same choice.

    Args:
        rule: Taken where no other is fit; it needs no check.
        others: The others, those that are usually fastest first.
        measurement: Tries runtime configurations.
        clock: Returns the time in seconds.
    """
    started = clock()
    rate_by_rule = measurement.rate(rule) or 0.0
    for runtime in others:
        rate = measurement.rate(runtime)
        if rate is not None and measurement.is_fit(runtime):
            return Choice(runtime=runtime, rate=rate, rate_by_rule=rate_by_rule, seconds=clock() - started)
    return Choice(runtime=rule, rate=rate_by_rule, rate_by_rule=rate_by_rule, seconds=clock() - started)


@dataclass(frozen=True, slots=True)
class _Runner:
    """A runtime configuration and its images a second."""

    runtime: RuntimeConfig
    rate: float


class _Comparison:
    """Measures one runtime configuration after another and keeps the better ones, until time is up.

    Attributes:
        least_gain: How many times faster another layout or micro-batch must be, so that noise and ties leave the rule
            alone.
        least_gain_at_cost: The same for options with a cost: less precision, or compiling or converting at every
            actor's start.
        hopeless: A precision this far behind before anything else was tried will not catch up.
        longest_pass: Seconds. A larger micro-batch is not tried, since a search has to report and to stop.
    """

    least_gain: ClassVar[float] = 1.03
    least_gain_at_cost: ClassVar[float] = 1.1
    hopeless: ClassVar[float] = 0.5
    longest_pass: ClassVar[float] = 1.0

    def __init__(self, measurement: Measurement, clock: Callable[[], float], seconds: float) -> None:
        self._measurement = measurement
        self._clock = clock
        self._started = clock()
        self._deadline = self._started + seconds

    def spent(self) -> float:
        return self._clock() - self._started

    def best(self, runners: Sequence[_Runner]) -> _Runner:
        """Returns the first one, or a later one that is faster than those before it by the gain at cost."""
        best, *others = runners
        for other in others:
            if other.rate > best.rate * self.least_gain_at_cost:
                best = other
        return best

    def rate(self, runtime: RuntimeConfig) -> float | None:
        """Measures a runtime configuration; None where it does not run, or where time is up."""
        return self._measurement.rate(runtime) if self._clock() < self._deadline else None

    def challenged(self, runtime: RuntimeConfig, above: float) -> _Runner | None:
        """Returns one that is faster than this many images a second and fit; None where it is not."""
        rate = self.rate(runtime)
        if rate is None or rate <= above:
            return None
        return _Runner(runtime, rate) if self._measurement.is_fit(runtime) else None

    def improved(self, champion: _Runner, gain: float, **changes: object) -> _Runner:
        """Returns the champion with some parts changed where that is so many times faster and fit; else itself."""
        return self.challenged(champion.runtime.changed(**changes), champion.rate * gain) or champion

    def refined_heads(self, first: _Runner, options: Options) -> list[_Runner]:
        """Returns the best one of the rule's precision, of each other and of each engine that is fit, in order."""
        heads = [first]
        for precision in options.precisions:
            head = self.challenged(first.runtime.changed(precision=precision), first.rate * self.hopeless)
            heads += [head] if head else []
        fastest = max(heads, key=lambda head: head.rate)
        for engine in options.engines:
            head = self.challenged(fastest.runtime.changed(engine=engine), first.rate * self.hopeless)
            heads += [head] if head else []
        refined = {}
        for place in sorted(range(len(heads)), key=lambda place: -heads[place].rate):
            refined[place] = self.refined(heads[place], options)
        return [refined[place] for place in range(len(heads))]

    def refined(self, champion: _Runner, options: Options) -> _Runner:
        """Improves layout and micro-batch."""
        for layout in options.layouts if champion.runtime.engine == "torch" else ():
            champion = self.improved(champion, self.least_gain, memory_layout=layout)
        sizes = options.micro_batches
        start = sizes.index(champion.runtime.micro_batch)
        for ladder in (reversed(sizes[:start]), sizes[start + 1 :]):
            before = champion
            for size in ladder:
                if size > champion.runtime.micro_batch and size > champion.rate * self.longest_pass:
                    break
                smaller_or_larger = self.improved(champion, self.least_gain, micro_batch=size)
                if smaller_or_larger is champion:
                    break
                champion = smaller_or_larger
            if champion is not before:
                break
        return champion
