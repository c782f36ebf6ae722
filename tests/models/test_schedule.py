import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from sfi_ray.models.training.schedule import learning_rate_factor


def rates_of_torch(make_scheduler, num_steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make_scheduler(optimizer)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("num_steps", [10, 97, 1000])
def test_one_cycle_is_that_of_torch(num_steps):
    expected = rates_of_torch(
        lambda optimizer: OneCycleLR(optimizer, 1.0, total_steps=num_steps + 1, cycle_momentum=False), num_steps
    )
    factors = [learning_rate_factor("one_cycle", step, num_steps + 1) for step in range(num_steps)]
    assert factors == pytest.approx(expected, abs=1e-9)


def test_cosine_is_that_of_torch():
    expected = rates_of_torch(lambda optimizer: CosineAnnealingLR(optimizer, 50), 50)
    assert [learning_rate_factor("cosine", step, 50) for step in range(50)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 7])
def test_factors_of_short_trainings_are_shares(schedule, num_steps):
    factors = [learning_rate_factor(schedule, step, num_steps) for step in range(num_steps)]
    assert all(0 < factor <= 1 for factor in factors)


def test_constant_stays():
    assert {learning_rate_factor("constant", step, 9) for step in range(9)} == {1.0}
