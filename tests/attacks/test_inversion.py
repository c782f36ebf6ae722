import math

import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray.attacks import AttackContext, Snapshot, read_attack_settings
from sfi_ray.errors import InputError
from sfi_ray.images import paint_pixels
from sfi_ray.models import Classifier
from sfi_ray.search.inversion.schedule import schedule_at
from sfi_ray.types import Finding, StopReason
from tests.attacks.conftest import make_cells, natural_images, outcomes, search


def inversion(**settings):
    return read_attack_settings({"kind": "inversion", **settings}).build()


def make_network(num_classes=3):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.LeakyReLU(0.1, inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * 3 * 4, 16),
            nn.LeakyReLU(0.1),
            nn.Linear(16, num_classes),
        )


@pytest.fixture(scope="module")
def small():
    """A convolutional network with max pooling, for RGB images of 6x8 pixels."""
    return Classifier(
        make_network(),
        name="small",
        input_shape=(3, 6, 8),
        num_classes=3,
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.3, 0.4],
        micro_batch=8,
    )


@pytest.fixture(scope="module")
def photos():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, 3, 6, 8), dtype=torch.uint8, generator=generator)


def find(attack, classifier, cells, images, checkpoints=None):
    events = attack.search(classifier, cells, 0.9, AttackContext(images, checkpoints))
    return [event for event in events if isinstance(event, Finding)]


def levels_of(finding, classifier):
    return paint_pixels([finding.pixels], [finding.cell.background], *classifier.input_shape[1:])[0].numpy().astype(int)


def features_of(classifier, images):
    """What enters the last layer, by running the layers before it one after the other."""
    layers = make_network()[:-1].eval()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (classifier.mean, classifier.std))
    return layers((images - mean) / std)


@pytest.mark.parametrize("background", ["black", "blue"])
def test_adam_is_autograd_on_equation_1_and_torchs_own_adam(small, photos, background):
    steps, learning_rate, penalty = 12, 0.05, 3e-3
    attack = inversion(
        optimizer="adam", steps=steps, learning_rate=learning_rate, lambda_sparse=penalty, layer="second_to_last"
    )
    cells = make_cells(small, ks=(48,), backgrounds=(background,), imitate=True)
    for finding in find(attack, small, cells, photos):
        colour = torch.tensor(finding.cell.background.value).view(3, 1, 1) / 255
        wanted = features_of(small, photos[finding.cell.image][None] / 255).detach()
        altered = torch.zeros(3, 6, 8, requires_grad=True)
        optimizer = torch.optim.Adam([altered], lr=learning_rate)
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.zero_grad()
            found = features_of(small, (colour + altered)[None])
            distance = (found - wanted).square().sum() / wanted.square().sum()
            grown = penalty * min(1, step / (0.5 * steps))
            (distance + grown * altered.abs().sum()).backward()
            optimizer.step()
            with torch.no_grad():
                altered.copy_(altered.maximum(-colour).minimum(1 - colour))
        expected = ((colour + altered.detach()) * 255).round().numpy()
        assert np.abs(levels_of(finding, small) - expected).max() <= 1
        assert len(finding.pixels) > 10


def test_features_that_are_pixels_give_the_closed_form(toy_rgb):
    """Then Eq. 1 falls apart into values, each of which is soft-thresholded."""
    natural = natural_images(toy_rgb.classifier)
    penalty = 2e-2
    attack = inversion(steps=400, lambda_sparse=penalty, learning_rate=0.02)
    cells = make_cells(toy_rgb.classifier, ks=(20,), backgrounds=("black", "gray"), imitate=True)
    for finding in find(attack, toy_rgb.classifier, cells, natural):
        image = natural[finding.cell.image].double().numpy() / 255
        colour = np.array(finding.cell.background.value)[:, None, None] / 255
        threshold = penalty * (image**2).sum() / 2
        wanted = image - colour
        altered = np.sign(wanted) * np.maximum(np.abs(wanted) - threshold, 0)
        expected = np.rint(255 * (colour + altered))
        assert np.abs(levels_of(finding, toy_rgb.classifier) - expected).max() <= 1
        assert 0 < len(finding.pixels) == finding_count(expected, colour)


def finding_count(levels, colour):
    return int((levels != np.rint(255 * colour)).any(axis=0).sum())


def test_a_heavier_penalty_alters_fewer_pixels(small, photos):
    cells = make_cells(small, ks=(48,), imitate=True)
    counts = []
    for penalty in (0.0, 0.03, 0.2):
        found = find(inversion(steps=80, lambda_sparse=penalty), small, cells, photos)
        counts.append(np.mean([len(finding.pixels) for finding in found]))
    assert counts[0] > counts[1] > counts[2]


@pytest.mark.parametrize("optimizer", ["proximal", "adam"])
def test_a_cap_is_respected_and_used(small, photos, optimizer):
    cells = make_cells(small, ks=(2, 7), backgrounds=("black", "blue"), imitate=True)
    for finding in find(inversion(steps=40, lambda_sparse=0.0, optimizer=optimizer), small, cells, photos):
        assert len(finding.pixels) == finding.cell.k


def test_a_cap_gives_pixels_up_little_by_little_and_then_refines_without_a_penalty():
    courses = [schedule_at(step, 100, 1024, 25) for step in range(100)]
    allowed = [course.num_pixels for course in courses]
    assert allowed[:40] == [1024] * 40
    assert allowed == sorted(allowed, reverse=True)
    assert set(allowed[69:]) == {25}
    assert len(set(allowed)) > 25
    assert all((course.penalty == 0) == (step == 0 or step >= 70) for step, course in enumerate(courses))
    assert courses[70].rate == 1 > courses[99].rate
    assert {schedule_at(step, 100, 1024, 1024).num_pixels for step in range(100)} == {1024}


@pytest.mark.parametrize("k", [48, 5])
def test_what_is_recorded_is_that_of_the_stored_image(small, photos, k):
    cells = make_cells(small, ks=(k,), backgrounds=("white",), imitate=True)
    for finding in find(inversion(steps=30), small, cells, photos):
        image = photos[finding.cell.image]
        stored = torch.tensor(levels_of(finding, small))
        with torch.inference_mode():
            wanted, found = (features_of(small, pixels[None] / 255)[0].double().numpy() for pixels in (image, stored))
            natural = (make_network()[-1](features_of(small, image[None] / 255))).softmax(1)
        similarity = finding.similarity
        # Of float32 features that came in another batch, so other last bits.
        assert similarity.feature_distance == pytest.approx(((found - wanted) ** 2).sum() / (wanted**2).sum(), abs=1e-5)
        product = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert similarity.feature_inner_product == pytest.approx(product, abs=1e-5)
        assert similarity.image_confidence == pytest.approx(natural[0, finding.cell.target_class].item(), abs=1e-5)


def test_an_inversion_comes_near_its_image(small, photos):
    cells = make_cells(small, ks=(48,), imitate=True)
    for finding in find(inversion(steps=200), small, cells, photos):
        assert finding.similarity.feature_distance < 0.02
        assert finding.similarity.feature_inner_product > 0.99
        assert finding.confidence == pytest.approx(finding.similarity.image_confidence, abs=0.1)


@pytest.mark.parametrize("layer", ["0", "2", "4", "6"])
def test_any_layer_can_be_inverted(small, photos, layer):
    cells = make_cells(small, ks=(48,), imitate=True)
    first = {f.cell.cell_id: f for f in find(inversion(steps=1, layer=layer, start_noise=0.1), small, cells, photos)}
    for finding in find(inversion(steps=60, layer=layer, start_noise=0.1), small, cells, photos):
        distance = finding.similarity.feature_distance
        assert distance < 0.5 * first[finding.cell.cell_id].similarity.feature_distance


def test_gradients_and_looks_are_counted(small, photos, monkeypatch):
    seen = {"gradients": 0, "log_probs": 0}
    for name in seen:
        original = getattr(small, name)

        def counted(images, *rest, name=name, original=original):
            seen[name] += len(images)
            return original(images, *rest)

        monkeypatch.setattr(small, name, counted)
    attack = inversion(steps=25)
    found = find(attack, small, make_cells(small, imitate=True), photos)
    assert sum(finding.backward_passes for finding in found) == seen["gradients"] == 3 * 25
    assert sum(finding.evaluations for finding in found) == seen["gradients"] + seen["log_probs"] + 3
    assert attack.max_evaluations == found[0].evaluations
    assert attack.max_backward_passes == 25


def test_a_cell_stops_at_its_goal(small, photos):
    cells = make_cells(small, ks=(48,), imitate=True)
    reached = {f.cell.cell_id: f.confidence for f in find(inversion(steps=100), small, cells, photos)}
    goal = 0.9 * min(reached.values())
    for finding in find(inversion(steps=100, stop_confidence=goal), small, cells, photos):
        assert finding.stop_reason is StopReason.FOOLED
        assert finding.confidence >= goal
        assert finding.backward_passes < 100


def test_noise_at_the_start_makes_replicates_differ_and_nothing_else_does(small, photos):
    cells = make_cells(small, ks=(48,), replicates=2, imitate=True)
    for noise in (0.0, 0.2):
        by_image = {}
        for finding in find(inversion(steps=5, start_noise=noise), small, cells, photos):
            by_image.setdefault(finding.cell.image, set()).add(finding.pixels)
        assert {len(pixels) for pixels in by_image.values()} == {1 if noise == 0 else 2}


class CheckpointStore:
    """Keeps the state after a number of rounds, and gives it back in a new search."""

    def __init__(self, at):
        self.at, self.rounds, self.kept = at, 0, []

    def is_due(self):
        self.rounds += 1
        return self.rounds == self.at

    def save(self, snapshot):
        self.kept.append(snapshot)

    def load(self, cells):
        return self.kept


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "start_noise": 0.1}, {"sparsity": "pixels"}])
def test_a_search_goes_on_from_a_snapshot_as_if_nothing_had_happened(small, photos, settings):
    attack = inversion(steps=30, **settings)
    cells = make_cells(small, ks=(4, 48), imitate=True)
    checkpoints = CheckpointStore(at=17)
    expected = outcomes(find(attack, small, cells, photos, checkpoints))
    (snapshot,) = checkpoints.kept
    assert snapshot.progress == (17,) * 3  # the cells of one k are searched together
    checkpoints.kept = [Snapshot.select(snapshot, [1, 2]), Snapshot.select(snapshot, [0])]
    assert outcomes(find(attack, small, cells, photos, checkpoints)) == expected


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.1)])
def test_a_search_in_less_precision_is_measured_in_float32(photos, precision, tolerance):
    classifier = Classifier(
        make_network(), name="fast", input_shape=(3, 6, 8), num_classes=3, precision=precision, micro_batch=8
    )
    cells = make_cells(classifier, ks=(48,), imitate=True)
    for finding in find(inversion(steps=60), classifier, cells, photos):
        stored = torch.tensor(levels_of(finding, classifier))[None] / 255
        probabilities = classifier.reference_log_probs(stored.float()).exp()[0]
        assert finding.confidence == probabilities[finding.cell.target_class].item()
        assert finding.similarity.feature_distance < tolerance


def test_a_natural_image_without_features_fails_alone(toy_rgb):
    natural = natural_images(toy_rgb.classifier)
    natural[1] = 0
    cells = make_cells(toy_rgb.classifier, imitate=True)
    found = {f.cell.image: f for f in find(inversion(steps=3), toy_rgb.classifier, cells, natural)}
    assert found[1].stop_reason is StopReason.FAILED
    assert "all zero" in found[1].error
    assert found[1].similarity is None
    assert {found[0].stop_reason, found[2].stop_reason} == {StopReason.BUDGET}


class NanAbove(nn.Module):
    """Gives NaN for an image with a bright first pixel."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, images):
        pixels = images.flatten(1)
        return self.head(torch.where(pixels[:, :1] > 0.5, torch.nan, pixels))


def test_features_that_become_nan_on_the_way_fail_the_cell_with_the_layer_named():
    classifier = Classifier(NanAbove(), name="nan", input_shape=(1, 3, 4), num_classes=2, micro_batch=4)
    natural = torch.full((2, 1, 3, 4), 120, dtype=torch.uint8)
    cells = make_cells(classifier, ks=(12,), backgrounds=("black", "white"), imitate=True)
    for finding in find(inversion(steps=5), classifier, cells, natural):
        if finding.cell.background.name == "white":
            assert finding.stop_reason is StopReason.FAILED
            assert "'second_to_last'" in finding.error
            assert "NaN" in finding.error
            assert finding.backward_passes == 1
        else:
            assert finding.stop_reason is StopReason.BUDGET


def test_natural_images_are_needed(small, photos):
    with pytest.raises(ValueError, match="natural images"):
        find(inversion(steps=1), small, make_cells(small, imitate=True), None)
    with pytest.raises(ValueError, match="names no natural image"):
        find(inversion(steps=1), small, make_cells(small), photos)


def test_a_layer_that_does_not_exist_is_refused_with_those_that_do(small):
    with pytest.raises(InputError, match=r"'small': attack.layer: .*no layer '44'; .*second_to_last, 0, 1, 2"):
        read_attack_settings({"kind": "inversion", "layer": "44"}).check_classifier(small)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


class Paired(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair, self.head = Pair(), nn.Linear(12, 2)

    def forward(self, images):
        return self.head(self.pair(images)[0].flatten(1))


def test_a_layer_that_passes_on_something_else_than_a_tensor_is_refused():
    classifier = Classifier(Paired(), name="pairs", input_shape=(1, 3, 4), num_classes=2)
    with pytest.raises(InputError, match="Pair passes tuple on, not one tensor"):
        read_attack_settings({"kind": "inversion", "layer": "pair"}).check_classifier(classifier)
    read_attack_settings({"kind": "inversion"}).check_classifier(classifier)


def test_more_cells_than_slots_take_turns(small, photos, monkeypatch):
    cells = make_cells(small, ks=(5, 48), backgrounds=("black", "white"), imitate=True)
    attack = inversion(steps=12)
    expected = outcomes(find(attack, small, cells, photos))
    monkeypatch.setattr("sfi_ray.attacks.InversionAttack.micro_batches_a_generation", 5 / 8)
    assert attack.num_slots(small.micro_batch) == 5
    assert outcomes(find(attack, small, cells, photos)) == expected


def test_findings_of_attacks_without_images_have_no_likeness(toy_gray):
    attack = read_attack_settings({"population_size": 5, "generations": 1}).build()
    (finding, *_) = search(attack, toy_gray.classifier, make_cells(toy_gray.classifier))
    assert finding.similarity is None
