"""The assertion for test suites, on small networks whose answers are known."""

import random
import re

import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray import Classifier, InputError, open_run
from sfi_ray.cluster import audit as audit_module
from sfi_ray.data import DatasetSpec
from sfi_ray.testing import assert_not_fooled

IMAGES = DatasetSpec(name="shades", shape=(1, 4, 4), class_names=("dark", "bright"))


class Corner(nn.Module):
    """Calls an image bright where the pixel in its corner is: one pixel fools it, and nothing else does."""

    def __init__(self, scale=20.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, images):
        corner = (images[:, 0, 0, 0] - 0.5) * self.scale
        return torch.stack([-corner, corner], dim=1)


def constant():
    """Gives both classes the same probability whatever the image."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    return network


def failing(**options):
    with pytest.raises(AssertionError) as caught:
        assert_not_fooled(Corner(), IMAGES, **options)
    return str(caught.value)


def test_a_network_that_no_image_moves_passes():
    assert_not_fooled(constant(), IMAGES, max_evaluations=20)


def test_the_message_names_the_cells_that_fool_and_the_threshold():
    message = failing(k=1, backgrounds=["black"], max_evaluations=300, threshold=0.95)
    first, second, *cells = message.splitlines()
    assert first == "'model': 100.0% of the classes are fooled with k = 1; the limit is 0.0%"
    assert second == "2 cells of 2 reached the threshold 0.95:"
    shown = [re.fullmatch(r"  class (\d) \((\w+)\) on black, k = 1: confidence ([\d.]+)%", cell) for cell in cells]
    assert {(one[1], one[2]) for one in shown} == {("0", "dark"), ("1", "bright")}
    assert all(95 <= float(one[3]) <= 100 for one in shown)


def test_the_message_is_that_of_the_rows(monkeypatch):
    """Reads the rows of the audit before its folder goes."""
    rows = []

    def spy(job, **options):
        done = real(job, **options)
        rows.extend(open_run(job.location).table().to_pylist())
        return done

    real = audit_module.audit
    monkeypatch.setattr("sfi_ray.testing.audit", spy)
    message = failing(k=(1, 2), max_evaluations=50, seed=3)
    wanted = {
        f"  class {row['target_class']} ({IMAGES.class_names[row['target_class']]}) on {row['background']}, "
        f"k = {row['k']}: confidence {row['confidence']:.1%}"
        for row in rows
        if row["fooled"]
    }
    assert len(rows) == 2 * 3 * 2
    assert all(row["evaluations"] <= 50 for row in rows)
    assert set(message.splitlines()[2:]) == wanted


def test_the_share_that_may_be_fooled_counts():
    assert_not_fooled(Corner(), IMAGES, k=1, backgrounds="black", max_evaluations=300, fail_above=1.0)
    # Confidence ends at 1 / (1 + exp(-2 * 0.5)) = 73.1 %.
    assert_not_fooled(Corner(1.0), IMAGES, k=1, backgrounds=["black"], max_evaluations=50)
    with pytest.raises(AssertionError, match=r"reached the threshold 0\.7:"):
        assert_not_fooled(Corner(1.0), IMAGES, k=1, backgrounds=["black"], max_evaluations=300, threshold=0.7)


def test_it_is_repeatable_and_leaves_generators_and_the_network_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = Corner().train()
    given = Classifier(network, name="corner", input_shape=(1, 4, 4), num_classes=2)
    state = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    messages = set()
    for _ in range(2):
        with pytest.raises(AssertionError) as caught:
            assert_not_fooled(given, k=1, max_evaluations=40)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert messages.pop().startswith("'corner': ")
    assert network.training
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert random.getstate() == state[2]
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_only_guesses_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.zeros_(network[1].weight)
    with pytest.raises(InputError, match="guessing"):
        assert_not_fooled(network, "digits", max_evaluations=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give data, such as 'cifar10'"),
        ({"data": IMAGES, "fail_above": 1.5}, "fail_above is a share from 0 to 1"),
        ({"data": IMAGES, "k": 17}, "an audit alters up to 17 pixels"),
        ({"data": IMAGES, "k": ()}, "k"),
        ({"data": IMAGES, "threshold": 0.0}, "threshold is a confidence above 0"),
        ({"data": IMAGES, "max_evaluations": 0}, "max_evaluations"),
        ({"data": IMAGES, "backgrounds": ["mauve-ish"]}, "mauve-ish"),
        ({"data": "no-such"}, "no-such"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        assert_not_fooled(Corner(), **options)


class Breaking(nn.Module):
    """Breaks where one pixel alone is altered on black."""

    def forward(self, images):
        if (images.flatten(1).count_nonzero(dim=1) == 1).any():
            raise RuntimeError("the network broke")
        return torch.zeros(len(images), 2)


def test_failed_cells_do_not_pass():
    with pytest.raises(AssertionError, match=r"2 of 2 cells failed.*the network broke"):
        assert_not_fooled(Breaking(), IMAGES, k=1, backgrounds="black", max_evaluations=10, gradients=False)


def test_a_black_box_is_audited_without_gradients():
    def predict(images):
        corner = 20 * (images[:, 0, 0, 0] / 255 - 0.5)
        return np.stack([-corner, corner], axis=1)

    box = Classifier.from_predict(predict, name="box", input_shape=(1, 4, 4), num_classes=2)
    with pytest.raises(AssertionError, match=r"'box': 100\.0% of the classes"):
        assert_not_fooled(box, k=1, backgrounds="black", max_evaluations=300, gradients=False)
    with pytest.raises(InputError, match="gradient"):
        assert_not_fooled(box, k=1)


def test_an_interrupted_audit_ends_the_suite(monkeypatch):
    monkeypatch.setattr("sfi_ray.testing.audit", lambda job, **options: audit_module.AuditOutcome(None, None))
    with pytest.raises(KeyboardInterrupt):
        assert_not_fooled(Corner(), IMAGES)
