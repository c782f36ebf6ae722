"""What people hand over in Python: modules, models with image processors, pipelines, names."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec, Job
from sfi_ray.job.classifier_text import with_named_networks
from sfi_ray.models.given import as_classifier
from sfi_ray.models.sources.libraries import named_network

SHAPE = (3, 8, 8)


class Model(nn.Module):
    """Gives an object with logits, as the models of transformers do."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Linear(192, 4)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.head(pixel_values.flatten(1)))


def processor(**changes):
    """Settings of an image processor of transformers, by default those of most vision transformers."""
    settings = {
        "do_resize": True,
        "size": {"height": 8, "width": 8},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        **changes,
    }
    return SimpleNamespace(**settings)


def prepared(images, settings):
    """Prepares 8-bit images step by step, as transformers does."""
    values = images.double()
    if settings.do_rescale:
        values = values * settings.rescale_factor - (1 if getattr(settings, "rescale_offset", False) else 0)
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(1, -1, 1, 1) for v in (settings.image_mean, settings.image_std)
    )
    if settings.do_normalize:
        values = (values - mean) / std
    return values / std if getattr(settings, "include_top", False) else values


def made(given):
    return as_classifier(given, name="x", input_shape=SHAPE, num_classes=4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "include_top": True},
        {"do_rescale": False},
        {"do_center_crop": True, "size": {"shortest_edge": 9}, "crop_size": {"height": 8, "width": 8}},
        {"size": {"shortest_edge": 9}},
    ],
)
@pytest.mark.parametrize("form", ["pair", "pipeline"])
def test_an_image_processor_says_how_images_are_prepared(changes, form):
    model, settings = Model(), processor(**changes)
    given = (model, settings) if form == "pair" else SimpleNamespace(model=model, image_processor=settings)
    images = torch.randint(0, 256, (5, *SHAPE), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = torch.log_softmax(model(prepared(images, settings).float()).logits, dim=1)
    torch.testing.assert_close(made(given).reference_log_probs(images.float() / 255), expected, rtol=1e-4, atol=1e-4)


def test_a_bare_module_takes_images_in_the_unit_interval():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    classifier = made(module)
    assert (classifier.input_shape, classifier.num_classes, classifier.name) == (SHAPE, 4, "x")
    assert not classifier.is_normalised
    assert made(classifier) is classifier


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "classifier 'x': give a torch.nn.Module, an sfi_ray.Classifier, a pair .* got NoneType"),
        ((processor(), Model()), "give a torch.nn.Module"),
        ((Model(), object()), "object is no image processor"),
        ((Model(), processor(size={"height": 9, "width": 8})), "images of 9x8, the data set has 8x8; give the data"),
        ((Model(), processor(do_flip_channel_order=True)), "RGB into BGR"),
        ((Model(), processor(image_mean=[0.5])), "mean"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), r"expected logits of shape \(1, 4\)"),
    ],
)
def test_what_cannot_be_a_classifier_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        made(given)


def test_names_are_those_of_torchvision_then_of_timm():
    pytest.importorskip("timm")
    assert named_network("resnet50") == {"torchvision": "resnet50", "weights": "DEFAULT"}
    assert named_network("mobilenetv3_small_050") == {"timm": "mobilenetv3_small_050"}
    with pytest.raises(
        InputError, match="neither torchvision nor timm has a network 'resnet_50'; did you mean 'resnet"
    ):
        named_network("resnet_50")


def test_a_name_is_written_into_the_job_and_other_things_stay():
    job = Job(name="j", dataset="imagenet", classifiers=["a", "b"], k=1)
    module = nn.Identity()
    named, given = with_named_networks(job, {"a": "resnet18", "b": module})
    assert named.classifiers[0] == ClassifierSpec(name="a", torchvision="resnet18", weights="DEFAULT")
    assert named.classifiers[1] == job.classifiers[1]
    assert given == {"b": module}
    assert with_named_networks(job, {"c": "resnet18"})[1] == {"c": "resnet18"}
    with pytest.raises(
        InputError, match=r"mapping from names in the job to networks, got list; give {'NAME': network}"
    ):
        with_named_networks(job, [module])
