"""A network is looked at before it is attacked; what it must not do is refused with its cause and the mend."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier, ClassifierPayload, build, is_same_network
from sfi_ray.models.examination import fingerprint_of, fixed_images

SHAPE = (1, 8, 8)


def linear(num_classes=10, scale=4.0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
        with torch.no_grad():
            network[1].weight.mul_(scale)
    return network


class Then(nn.Module):
    """A network, and what is done with its logits."""

    def __init__(self, step, num_classes=10):
        super().__init__()
        self.network = linear(num_classes)
        self.step = step

    def forward(self, images):
        return self.step(self.network(images))


class Before(nn.Module):
    """What is done with images, and a network."""

    def __init__(self, step):
        super().__init__()
        self.step = step
        self.network = linear()

    def forward(self, images):
        return self.network(self.step(images))


def make(network, num_classes=10, **options):
    return Classifier(network, name="toy", input_shape=SHAPE, num_classes=num_classes, **options)


def some_images(count=6):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def softmax(logits):
    return logits.softmax(dim=1)


def half_sure(logits):
    return 0.5 * logits.sigmoid()


def two_rows(logits):
    return logits.repeat(2, 1)


def nested(logits):
    return [logits]


REFUSED = {
    "softmax": (Then(softmax), "logits", "gives probabilities, not logits.*set outputs to probabilities"),
    "log of softmax said to be probabilities": (
        Then(lambda logits: logits.log_softmax(1)),
        "probabilities",
        "are not probabilities.*set outputs to logits",
    ),
    "sigmoid": (Then(torch.sigmoid), "logits", r"lie in \[0, 1\].*set outputs to sigmoid"),
    "half of a sigmoid": (Then(half_sure), "logits", r"lie in \[0, 1\]"),
    "sigmoid said to be probabilities": (Then(torch.sigmoid), "probabilities", "set outputs to sigmoid"),
    "softmax said to be sigmoid": (Then(softmax), "sigmoid", "set outputs to probabilities"),
    "logits said to be probabilities": (linear(), "probabilities", "set outputs to logits"),
    "two rows for an image": (Then(two_rows), "logits", r"the network gave shape \(2, 10\)"),
    "a list": (Then(nested), "logits", "the network gave list"),
    "a feature map": (Then(lambda logits: logits[..., None, None]), "logits", r"shape \(1, 10, 1, 1\)"),
    "a mean over the batch": (Then(lambda logits: logits.mean(0, keepdim=True)), "logits", "not one row per image"),
    "other classes": (linear(7), "logits", r"the network gave shape \(1, 7\)"),
    "one logit of ten classes": (Then(lambda logits: logits[:, :1]), "sigmoid", "needs a data set of two classes"),
    "dropout in forward": (Before(lambda images: nn.functional.dropout(images, 0.3)), "logits", "random"),
    "noise": (Then(lambda logits: logits + torch.randn_like(logits)), "logits", "random"),
    "batch norm without running statistics": (
        nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), linear()),
        "logits",
        "batch norm without running statistics",
    ),
    "logits less the mean of the batch": (
        Then(lambda logits: logits - logits.mean(0)),
        "logits",
        "other images of its batch",
    ),
    "an order over the batch": (Then(lambda logits: logits + logits.cumsum(0)), "logits", "other images of its batch"),
    "a network that fails": (Then(lambda logits: logits[:, :, 3]), "logits", "refuses an image of shape"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_classifier_is_refused_with_the_cause(case):
    network, outputs, message = REFUSED[case]
    with pytest.raises(InputError, match=f"(?s)classifier 'toy'.*{message}"):
        make(network, outputs=outputs)


def test_a_network_that_remembers_earlier_images_is_refused():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = linear()
            self.calls = 0

        def forward(self, images):
            self.calls += 1
            return self.network(images) + self.calls

    with pytest.raises(InputError, match="remembers earlier images"):
        make(Counting())


def test_probabilities_are_their_own():
    network = Then(softmax)
    log_probs = make(network, outputs="probabilities").log_probs(some_images())
    torch.testing.assert_close(log_probs.exp(), network(some_images()).detach())


def test_probabilities_search_like_the_logits_below_them():
    expected = make(linear())
    given = make(Then(softmax), outputs="probabilities")
    images = some_images()
    torch.testing.assert_close(given.log_probs(images), expected.log_probs(images), rtol=1e-4, atol=1e-5)

    def of_third(log_probs, part):
        del part
        return log_probs[:, 3]

    for one, other in zip(given.gradients(images, of_third), expected.gradients(images, of_third), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("step", [torch.sigmoid, lambda logits: logits], ids=["inside", "left out"])
def test_sigmoid_gives_each_class_its_own_probability(step):
    classifier = make(Then(step), outputs="sigmoid")
    expected = linear()(some_images()).sigmoid().detach()
    torch.testing.assert_close(classifier.log_probs(some_images()).exp(), expected)
    assert (classifier.log_probs(some_images()).exp().sum(dim=1) > 1.01).any(), "they need not sum to 1"


@pytest.mark.parametrize(
    ("step", "outputs"),
    [
        (lambda logits: logits, "sigmoid"),
        (lambda logits: logits[:, 0], "sigmoid"),
        (torch.sigmoid, "sigmoid"),
        (torch.sigmoid, "probabilities"),
    ],
    ids=["logit", "flat logit", "sigmoid", "probability"],
)
def test_one_number_of_two_classes_is_that_of_the_second(step, outputs):
    classifier = make(Then(step, num_classes=1), 2, outputs=outputs)
    second = linear(1)(some_images()).sigmoid().detach()
    torch.testing.assert_close(classifier.log_probs(some_images()).exp(), torch.cat([1 - second, second], dim=1))


def test_one_logit_of_two_classes_is_refused_with_the_mend():
    with pytest.raises(InputError, match=r"one number for two classes.*set outputs to sigmoid"):
        make(linear(1), 2)


@pytest.mark.parametrize(
    "step", [lambda logits: SimpleNamespace(logits=logits, loss=None), lambda logits: {"logits": logits}]
)
def test_logits_in_an_object_or_a_mapping_are_taken(step):
    classifier = make(Then(step))
    assert torch.equal(classifier.log_probs(some_images()), make(linear()).log_probs(some_images()))


def test_layers_keep_the_names_of_the_network_that_was_given():
    classifier = make(nn.Sequential(linear(), nn.Softmax(1)), outputs="probabilities")
    assert "0.1" in classifier.layer_names
    assert classifier.features(some_images(), "0.1").shape == (6, 10)
    assert classifier.features(some_images(), "second_to_last").shape == (6, 64)


class OneAtATime(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = linear()

    def forward(self, images):
        assert len(images) == 1
        return self.network(images)


def test_a_network_of_single_images_gets_single_images():
    classifier = make(OneAtATime())
    assert classifier.micro_batch == classifier.batch_size == 1
    torch.testing.assert_close(classifier.log_probs(some_images()), make(linear()).log_probs(some_images()))


def test_a_network_of_single_images_in_larger_micro_batches_is_refused():
    with pytest.raises(InputError, match=r"takes batches of 1 image only.*compute.micro_batch out, or set it to 1"):
        make(OneAtATime(), micro_batch=4)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), None])
def test_logits_in_the_unit_interval_are_taken_where_they_are_declared(bounds):
    network = Then(torch.sigmoid)
    if bounds:
        network.logit_range = bounds
        assert make(network).examined.highest_confidence(10) == pytest.approx(0.232, abs=1e-3)
    else:
        with pytest.raises(InputError, match="logit_range"):
            make(network)


def test_capsnet_says_itself_what_confidence_it_can_reach():
    network = build("capsnet", input_shape=(1, 17, 17), num_classes=10)
    classifier = Classifier(network, name="capsnet", input_shape=(1, 17, 17), num_classes=10)
    assert classifier.examined.highest_confidence(10) == pytest.approx(0.232, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_outputs_that_say_nothing_are_left_to_the_cells(value):
    make(Then(lambda logits: torch.full_like(logits, value)))


def test_untrained_numbers_are_not_judged():
    network = Then(torch.sigmoid)
    assert make(network, is_trained=False).examined.outputs == "logits"


def test_networks_that_differ_in_forward_alone_are_told_apart():
    sharp, flat = make(linear()), make(Then(lambda logits: 0.05 * logits).requires_grad_(False))
    sharp = make(Then(lambda logits: logits))
    assert sharp.fingerprint != flat.fingerprint
    assert sharp.fingerprint[:24] == flat.fingerprint[:24], "all that is hashed of them is the same"
    assert not is_same_network(sharp.fingerprint, sharp.examined.answers, flat.fingerprint, flat.examined.answers)


@given(noise=st.floats(-1, 1), seed=st.integers(0, 100))
@settings(max_examples=30, deadline=None)
def test_the_rounding_of_another_machine_does_not_make_another_network(noise, seed):
    answers = tuple((20 * torch.randn(12, generator=torch.Generator().manual_seed(seed))).tolist())
    near = tuple(answer * (1 + 1e-5 * noise) for answer in answers)
    parts = "0123456789abcdef" * 2
    ours, theirs = fingerprint_of(parts, answers), fingerprint_of(parts, near)
    assert is_same_network(ours, answers, theirs, near), "even where rounding names it otherwise"
    far = tuple(answer + 0.1 for answer in answers)
    assert not is_same_network(ours, answers, fingerprint_of(parts, far), far)
    assert not is_same_network(ours, answers, "f" + ours[1:], answers)


def test_outputs_enter_the_fingerprint():
    assert make(linear(), outputs="sigmoid").fingerprint != make(linear()).fingerprint


def test_what_was_examined_travels_and_is_not_examined_again():
    classifier = make(Then(torch.sigmoid), outputs="sigmoid")
    payload = classifier.to_payload()
    assert isinstance(payload, ClassifierPayload)
    arrived = Classifier.from_payload(payload)
    assert arrived.examined == classifier.examined
    assert arrived.fingerprint == classifier.fingerprint
    assert torch.equal(arrived.log_probs(some_images()), classifier.log_probs(some_images()))


def test_fixed_images_are_the_same_every_time_and_few_where_they_are_large():
    assert torch.equal(fixed_images(SHAPE, torch.device("cpu")), fixed_images(SHAPE, torch.device("cpu")))
    assert len(fixed_images(SHAPE, torch.device("cpu"))) == 8
    large = fixed_images((3, 224, 224), torch.device("cpu"))
    assert len(large) == 3
    assert 0 <= large.min() <= large.max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_small_logits_that_lie_between_0_and_1_by_chance_are_logits(seed):
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.rand(2, 48, generator=torch.Generator().manual_seed(seed)) / 48)
        network[1].bias.zero_()
    Classifier(network, name="small", input_shape=(3, 4, 4), num_classes=2)
    for layer in (nn.Sigmoid(), nn.Softmax(1)):
        with pytest.raises(InputError, match=r"not logits|as after a sigmoid"):
            Classifier(nn.Sequential(network, layer), name="small", input_shape=(3, 4, 4), num_classes=2)
