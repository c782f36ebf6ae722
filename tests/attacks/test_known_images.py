"""What is stored is never worse than the bare background, or than what fewer pixels were seen to reach."""

import math

import pytest
import torch
from torch import nn

from sfi_ray.attacks import AttackContext, read_attack_settings
from sfi_ray.attacks.sweep import sweep
from sfi_ray.models import Classifier
from sfi_ray.types import Background, Finding, StopReason
from tests.attacks.conftest import make_cells, outcomes, search
from tests.attacks.test_attacks import ATTACKS, GROUPED
from tests.attacks.test_snapshots import MemoryStore

SEARCHING = {
    name: settings
    for name, settings in {**ATTACKS, **GROUPED}.items()
    if settings["kind"] != "inversion" and name in {*GROUPED, "de", "jde", "sparse_rs", "nevergrad", "gradient"}
}


class Dark(nn.Module):
    """Is sure of class 1 on black, and the less the more pixels are altered."""

    def forward(self, images):
        brightness = images.flatten(1).sum(dim=1)
        return torch.stack([brightness, 2.0 - 4.0 * brightness, torch.zeros_like(brightness)], dim=1)


@pytest.fixture
def dark():
    return Classifier(Dark(), name="dark", input_shape=(1, 6, 6), num_classes=3, micro_batch=16)


@pytest.mark.parametrize("kind", SEARCHING)
def test_an_image_worse_than_the_bare_background_is_not_stored(dark, kind):
    attack = read_attack_settings(SEARCHING[kind]).build()
    bare = dark.reference_log_probs(torch.zeros(1, 1, 6, 6)).exp()[0]
    findings = search(attack, dark, make_cells(dark, ks=(1, 5), replicates=2), threshold=0.75)
    assert {finding.cell.k for finding in findings} == {1, 5}
    for finding in findings:
        own = float(bare[finding.cell.target_class])
        assert finding.confidence >= finding.background_confidence == own
        assert finding.fooled == (finding.confidence >= 0.75)
        assert finding.trace[-1].confidence == pytest.approx(finding.confidence)
        assert [point.confidence for point in finding.trace] == sorted(point.confidence for point in finding.trace)
        if not finding.pixels:
            assert finding.confidence == own
            assert (finding.predicted_class, finding.predicted_confidence) == (1, float(bare[1]))
        assert finding.stop_reason is StopReason.BUDGET
    of_dark = [finding for finding in findings if finding.cell.target_class == 1]
    # Whatever a pixel does harms here, and a search seldom finds the pixel that does next to nothing.
    assert any(finding.pixels == () for finding in of_dark)
    assert all(finding.fooled for finding in of_dark)


@pytest.mark.parametrize("kind", SEARCHING)
def test_a_background_that_reaches_the_goal_ends_its_cell_after_a_generation(dark, kind):
    attack = read_attack_settings({**SEARCHING[kind], "stop_confidence": 0.75}).build()
    findings = search(attack, dark, make_cells(dark, ks=(5,)), threshold=0.75)
    (of_dark,) = [finding for finding in findings if finding.cell.target_class == 1]
    assert (of_dark.stop_reason, of_dark.generations, of_dark.fooled) == (StopReason.FOOLED, 1, True)
    assert of_dark.confidence >= of_dark.background_confidence >= 0.75
    others = [finding for finding in findings if finding.cell.target_class != 1]
    assert all((finding.stop_reason is StopReason.FOOLED) == finding.fooled for finding in others)


def test_rows_with_bare_backgrounds_are_the_same_from_snapshots_and_in_any_company(dark):
    attack = read_attack_settings({**SEARCHING["de"], "stop_confidence": 0.9}).build()
    cells = make_cells(dark, ks=(1, 5), backgrounds=("black", "white"))
    checkpoints = MemoryStore()
    events = attack.search(dark, cells, 0.75, AttackContext(checkpoints=checkpoints))
    expected = outcomes([event for event in events if isinstance(event, Finding)])
    for cell in cells:
        assert outcomes(search(attack, dark, [cell], threshold=0.75)) == {cell.cell_id: expected[cell.cell_id]}
    for number in range(len(checkpoints.kept)):
        again = attack.search(dark, cells, 0.75, AttackContext(checkpoints=MemoryStore(checkpoints.kept[: number + 1])))
        assert outcomes([event for event in again if isinstance(event, Finding)]) == expected


def test_a_background_without_a_probability_fails_its_cells(dark):
    class Blind(Dark):
        def forward(self, images):
            logits = super().forward(images)
            is_bare = images.flatten(1).sum(dim=1) == 0
            return torch.where(is_bare[:, None], torch.nan, logits)

    classifier = Classifier(Blind(), name="blind", input_shape=(1, 6, 6), num_classes=3, micro_batch=16)
    findings = search(read_attack_settings(SEARCHING["de"]).build(), classifier, make_cells(classifier))
    assert {finding.stop_reason for finding in findings} == {StopReason.FAILED}


class Fading(nn.Module):
    """Is sure of class 1 where exactly one pixel is bright, and far less where there are more."""

    def forward(self, images):
        bright = (images > 0.5).flatten(1).sum(dim=1).float()
        return torch.stack([torch.zeros_like(bright), 3.0 - 2.0 * (bright - 1).abs()], dim=1)


def test_more_pixels_never_store_less_than_fewer_found():
    classifier = Classifier(Fading(), name="fading", input_shape=(1, 6, 6), num_classes=2, micro_batch=16)
    best = 1 / (1 + math.exp(-3.0))
    growing = {"kind": "map_elites", "max_evaluations": 20, "begins_with": "smaller_k"}
    findings = search(
        read_attack_settings(growing).build(), classifier, make_cells(classifier, ks=(20, 1, 6), target_classes=(1,))
    )
    assert [finding.cell.k for finding in findings] == [1, 6, 20]
    assert all(finding.confidence == pytest.approx(best) for finding in findings)

    scarce = read_attack_settings({"population_size": 4, "generations": 0})
    black = (Background("black", (0,)),)
    swept = sweep(classifier, scarce, backgrounds=black, target_classes=(1,), ks=(30, 20, 2, 1), seed=1)
    assert [finding.cell.k for finding in swept] == [30, 20, 2, 1]
    confidences = [finding.confidence for finding in swept]
    assert confidences == sorted(confidences, reverse=True)
    for finding in swept:
        assert len(finding.pixels) <= finding.cell.k
        assert finding.trace[-1].confidence == pytest.approx(finding.confidence)


def test_verifications_are_the_background_and_every_image_that_was_to_be_stored(dark):
    cells = make_cells(dark, ks=(2,), target_classes=(0,))
    (finding,) = search(read_attack_settings({"population_size": 4, "generations": 2}).build(), dark, cells)
    assert (finding.evaluations, finding.verifications) == (12, 2)

    class Doubting(Classifier):
        """Is surer while it searches than where it is verified."""

        def sparse_log_probs(self, spots, levels, backgrounds, canvas=None):
            return super().sparse_log_probs(spots, levels, backgrounds, canvas) + 1.0

    doubting = Doubting(Dark(), name="doubting", input_shape=(1, 6, 6), num_classes=3, micro_batch=16)
    attack = read_attack_settings({"population_size": 4, "generations": 20, "stop_confidence": 0.6}).build()
    (refused,) = search(attack, doubting, make_cells(doubting, ks=(1,), target_classes=(2,)))
    assert refused.verifications > 2
    checkpoints = MemoryStore()
    cells = make_cells(doubting, ks=(1,), target_classes=(2,))
    list(attack.search(doubting, cells, 0.9, AttackContext(checkpoints=checkpoints)))
    for number in range(len(checkpoints.kept)):
        again = attack.search(
            doubting, cells, 0.9, AttackContext(checkpoints=MemoryStore(checkpoints.kept[: number + 1]))
        )
        assert next(event for event in again if isinstance(event, Finding)).verifications == refused.verifications
