"""Choosing as a pure function: rates and fitness are given, time is counted."""

from dataclasses import replace

import pytest

from sfi_ray.models.runners.runtime import RuntimeConfig
from sfi_ray.models.tuning.choose import Choice, Options, choose, first_fit

RULE = RuntimeConfig(micro_batch=128)
ALL = Options(
    precisions=("bfloat16", "float16"),
    layouts=("contiguous",),
    micro_batches=(16, 32, 64, 128, 256, 512),
    can_replay=True,
    can_compile=True,
)


class Machine:
    """A trial whose answers are known; a measurement takes a second."""

    def __init__(self, rates, unfit=()):
        self.rates = rates
        self.unfit = unfit
        self.now = 100.0
        self.measured = []
        self.checked = []

    def rate(self, runtime):
        self.now += 1.0
        self.measured.append(runtime)
        return self.rates(runtime)

    def is_fit(self, runtime):
        self.checked.append(runtime)
        return not any(all(getattr(runtime, k) == v for k, v in unfit.items()) for unfit in self.unfit)

    def choose(self, options=ALL, seconds=1e6):
        return choose(RULE, options, self, seconds=seconds, clock=lambda: self.now)


def by_parts(**factors):
    """Rates that are a product of what each part brings; 1000 by rule."""

    def rate(runtime):
        result = 1000.0
        for part, by_value in factors.items():
            result *= by_value.get(getattr(runtime, part), 1.0)
        return result

    return rate


def test_the_fastest_of_every_part_is_chosen():
    machine = Machine(
        by_parts(
            precision={"bfloat16": 2.0, "float16": 1.5},
            memory_layout={"contiguous": 1.2},
            micro_batch={64: 1.3, 32: 1.6, 16: 1.1},
            is_compiled={True: 1.2},
            uses_graphs={True: 1.1},
        )
    )
    choice = machine.choose()
    assert choice.runtime == RuntimeConfig(
        precision="bfloat16", memory_layout="contiguous", micro_batch=32, is_compiled=True, uses_graphs=True
    )
    assert choice.rate == pytest.approx(1000 * 2 * 1.2 * 1.6 * 1.1 * 1.2)
    assert (choice.rate_by_rule, choice.gain) == (1000.0, pytest.approx(choice.rate / 1000))
    assert choice.seconds == len(machine.measured)


def test_by_rule_the_first_that_runs_and_is_fit_is_taken_however_slow():
    first, second, third = (RULE.changed(precision="bfloat16", micro_batch=size) for size in (1, 2, 4))
    rates = {RULE: 1000.0, first: None, second: 9000.0, third: 10.0}
    machine = Machine(rates.get, unfit=[{"micro_batch": 2}])
    choice = first_fit(RULE, [first, second, third], machine, clock=lambda: machine.now)
    assert choice == Choice(runtime=third, rate=10, rate_by_rule=1000, seconds=4)
    assert machine.checked == [second, third]


def test_by_rule_the_rule_stays_where_nothing_else_is_fit():
    machine = Machine(lambda runtime: 9000.0 if runtime != RULE else 1000.0, unfit=[{}])
    choice = first_fit(RULE, [RULE.changed(precision="bfloat16")], machine, clock=lambda: machine.now)
    assert choice == Choice(runtime=RULE, rate=1000, rate_by_rule=1000, seconds=2)


def test_a_fast_one_that_computes_something_else_is_refused():
    rates = by_parts(precision={"bfloat16": 9.0, "float16": 3.0}, is_compiled={True: 2.0})
    machine = Machine(rates, unfit=[{"precision": "bfloat16"}, {"is_compiled": True}])
    assert machine.choose().runtime == RuntimeConfig(precision="float16", micro_batch=128)
    assert {e.precision for e in machine.measured} == {"float32", "bfloat16", "float16"}
    assert sum(e.precision == "bfloat16" for e in machine.measured) == 1, "the rest of it would be as wrong"


def test_what_does_not_run_is_refused():
    machine = Machine(lambda e: None if e.precision == "bfloat16" or e.micro_batch > 128 or e.uses_graphs else 100.0)
    assert machine.choose().runtime == RULE


def test_where_not_even_the_rule_runs_it_stays():
    assert Machine(lambda _: None).choose() == Choice(runtime=RULE, rate=0, rate_by_rule=0, seconds=1)


@pytest.mark.parametrize("parts", [{}, {"micro_batch": {64: 1.02, 256: 1.029}}, {"precision": {"bfloat16": 1.09}}])
def test_ties_and_what_is_little_faster_leave_the_rule_alone(parts):
    machine = Machine(by_parts(**parts))
    choice = machine.choose()
    assert choice.runtime == RULE
    assert choice.gain == 1.0
    assert machine.checked == [RULE.changed(precision=p) for p in ALL.precisions], "what is slower is not checked"


def test_less_precision_has_to_be_worth_more_than_another_batch():
    assert Machine(by_parts(precision={"bfloat16": 1.09})).choose().runtime == RULE
    assert Machine(by_parts(precision={"bfloat16": 1.11})).choose().runtime.precision == "bfloat16"
    assert Machine(by_parts(micro_batch={256: 1.04})).choose().runtime == RULE.changed(micro_batch=256)


def test_compiling_has_to_be_worth_every_actor_s_start():
    for gain, expected in ((1.09, False), (1.11, True)):
        assert Machine(by_parts(is_compiled={True: gain})).choose().runtime.is_compiled is expected


def test_each_precision_is_compared_at_its_own_best():
    # Wider batches suit the narrow format only, as where twice as much fits into a cache.
    rates = {("float32", 64): 1900.0, ("bfloat16", 128): 2050.0, ("bfloat16", 256): 2200.0}
    machine = Machine(lambda e: rates.get((e.precision, e.micro_batch), 1000.0) if not e.is_compiled else 1.0)
    assert machine.choose().runtime == RuntimeConfig(precision="bfloat16", micro_batch=256)
    rates["float32", 64] = 2010.0
    assert machine.choose().runtime == RULE.changed(micro_batch=64), "2200 is not a tenth more than 2010"


def test_the_precision_that_promises_most_is_improved_first():
    machine = Machine(by_parts(precision={"float16": 3.0}, micro_batch={64: 1.5}))
    assert machine.choose(seconds=6).runtime == RuntimeConfig(precision="float16", micro_batch=64)


def test_another_engine_is_tried_in_the_fastest_precision_and_with_its_own_micro_batch():
    options = replace(ALL, engines=("openvino",))
    factors = {"precision": {"bfloat16": 2.0}, "engine": {"openvino": 1.5}, "is_compiled": {True: 1.2}}

    def rate(runtime):
        own = {64: 1.3} if runtime.engine == "openvino" else {256: 1.1}
        return by_parts(**factors)(runtime) * own.get(runtime.micro_batch, 1.0)

    machine = Machine(rate)
    assert machine.choose(options).runtime == RULE.changed(precision="bfloat16", engine="openvino", micro_batch=64)
    through = [e for e in machine.measured if e.engine == "openvino"]
    assert {(e.precision, e.memory_layout, e.is_compiled, e.uses_graphs) for e in through} == {
        ("bfloat16", "channels_last", False, False)
    }
    compiled = [e for e in machine.measured if e.is_compiled]
    assert compiled == [RULE.changed(precision="bfloat16", micro_batch=256, is_compiled=True)]

    factors["is_compiled"] = {True: 1.6 * 1.3}
    assert Machine(rate).choose(options).runtime == compiled[0], "compiling is compared with it"
    factors["is_compiled"], factors["engine"] = {}, {"openvino": 1.1 / 1.3 * 1.09}
    chosen = Machine(rate).choose(options).runtime
    assert chosen == RULE.changed(precision="bfloat16", micro_batch=256), "and it has to pay, too"


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_the_background_is_reused_where_the_best_one_gains_by_it(engine):
    options = replace(ALL, can_replay=False, can_reuse=True, engines=("openvino",))
    factors = {"engine": {engine: 1.5}, "reuses_background": {True: 1.3}, "is_compiled": {True: 1.2}}
    machine = Machine(by_parts(**factors))
    chosen = machine.choose(options).runtime
    assert chosen == RULE.changed(engine=engine, reuses_background=True)
    assert [e for e in machine.measured if e.reuses_background] == [chosen], "it is tried once"

    factors["is_compiled"][True] = 2.5
    assert Machine(by_parts(**factors)).choose(options).runtime == RULE.changed(is_compiled=True)
    factors["is_compiled"][True] = 1.0
    assert Machine(by_parts(**factors), unfit=[{"reuses_background": True}]).choose(options).runtime.engine == engine
    factors["reuses_background"][True] = 1.09
    assert not Machine(by_parts(**factors)).choose(options).runtime.reuses_background, "it has to pay"
    factors["reuses_background"][True] = 9.0
    assert not Machine(by_parts(**factors)).choose().runtime.reuses_background, "and to be offered"


def test_a_precision_that_is_hopeless_costs_one_measurement():
    machine = Machine(by_parts(precision={"bfloat16": 0.1, "float16": 0.1}))
    machine.choose()
    assert sum(e.precision != "float32" for e in machine.measured) == 2
    assert machine.checked == []


def test_batches_that_take_too_long_are_not_tried():
    rates = by_parts(micro_batch={256: 3.0, 512: 9.0})
    assert Machine(rates).choose().runtime == RULE.changed(micro_batch=512)
    slow = Machine(lambda e: rates(e) / 10)  # at 100 images a second, 256 take longer than one
    assert slow.choose().runtime == RULE
    assert max(e.micro_batch for e in slow.measured) == 128


@pytest.mark.parametrize("seconds", range(12))
def test_no_measurement_begins_after_the_deadline(seconds):
    machine = Machine(by_parts(memory_layout={"contiguous": 2.0}, micro_batch={64: 1.5, 32: 2.5}))
    choice = machine.choose(seconds=seconds)
    assert len(machine.measured) == seconds or seconds > len(machine.measured)
    assert choice.seconds <= seconds
    improved = [RULE.changed(memory_layout="contiguous", micro_batch=size) for size in (128, 64, 32)]
    # Nothing, the rule, and the two other precisions come first.
    assert choice.runtime == [*[RULE] * 4, *improved][min(seconds, 6)]


def test_a_rule_that_was_measured_while_the_machine_was_busy_is_measured_again():
    rates = iter([10.0, 100.0])  # the rule, first and at the end
    machine = Machine(lambda e: next(rates) if e == RULE else 101.0 if e.micro_batch == 64 else 1.0)
    choice = machine.choose(Options(micro_batches=(64, 128)))
    assert (choice.runtime, choice.rate, choice.rate_by_rule) == (RULE, 100.0, 100.0)


def test_nothing_to_choose_among_is_one_measurement():
    machine = Machine(by_parts())
    assert machine.choose(Options(micro_batches=(128,))).runtime == RULE
    assert machine.measured == [RULE]


@pytest.mark.parametrize(
    ("runtime", "text"),
    [
        (RULE, "float32, channels-last, 128 images at once"),
        (RuntimeConfig(micro_batch=1, memory_layout="contiguous"), "float32, contiguous, 1 image at once"),
        (
            RuntimeConfig(precision="bfloat16", micro_batch=4096, is_compiled=True, uses_graphs=True),
            "bfloat16, channels-last, 4,096 images at once, compiled, replayed as a graph",
        ),
        (RuntimeConfig(micro_batch=64, engine="openvino"), "float32, 64 images at once, through OpenVINO"),
    ],
)
def test_an_execution_says_what_it_is(runtime, text):
    assert runtime.describe() == text


def test_an_execution_is_checked_when_it_is_changed():
    with pytest.raises(ValueError, match="micro_batch"):
        RULE.changed(micro_batch=0)
