import pickle
import subprocess
import sys

import pytest
import torch

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier, weights_bytes
from sfi_ray.models.sources.factory import FactorySource

SHAPE = (1, 8, 8)
CODE = """
import torch
from torch import nn
from sfi_ray import Classifier

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.full = nn.Linear(64, num_classes)

    def forward(self, images):
        return self.full(images.flatten(1))

def plain():
    return Net(4)

def asks(num_classes, input_shape, depth=1):
    assert input_shape == (1, 8, 8)
    return Net(num_classes)

def whole():
    return Classifier(Net(4), name="x", input_shape=(1, 8, 8), num_classes=4, mean=[0.3], std=[0.4])

def wrong():
    return "a network"

class Holder:
    @staticmethod
    def inner():
        return Net(4)

NUMBER = 5
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder, which is not on sys.path."""
    (tmp_path / "my_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_networks", None)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["plain", "asks", "whole", "Holder.inner"])
def test_a_factory_in_the_current_folder_is_called(name):
    path = list(sys.path)
    module, normalisation = FactorySource(what=f"my_networks:{name}").load(SHAPE, 4)
    assert module(torch.rand(2, *SHAPE)).shape == (2, 4)
    assert normalisation == (((0.3,), (0.4,)) if name == "whole" else None)
    assert sys.path == path


@pytest.mark.usefixtures("own")
def test_what_the_job_says_of_normalisation_and_weights_goes(tmp_path):
    module = FactorySource(what="my_networks:plain").build_module(SHAPE, 4)
    (tmp_path / "own.safetensors").write_bytes(weights_bytes(module))
    source = FactorySource(what="my_networks:whole", weights="own.safetensors", mean=(0.1,), std=(0.2,))
    loaded, normalisation = source.load(SHAPE, 4)
    assert torch.equal(loaded.full.weight, module.full.weight)
    assert normalisation == ((0.1,), (0.2,))


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("my_network:plain", "there is no module 'my_network' on sys.path or in "),
        ("my_networks:plan", r"module 'my_networks' \(.*my_networks\.py\) has no 'plan'"),
        ("my_networks:Holder.outer", "has no 'Holder.outer'"),
        ("my_networks:NUMBER", "is int, which cannot be called"),
        ("my_networks:wrong", "returned str; a factory returns a torch.nn.Module"),
        ("my_networks", "is not written package.module:callable"),
        ("my_networks:", "is not written package.module:callable"),
        (":plain", "is not written package.module:callable"),
    ],
)
def test_what_does_not_exist_is_named(what, message):
    with pytest.raises(InputError, match=message):
        FactorySource(what=what).load(SHAPE, 4)


@pytest.mark.usefixtures("own")
def test_a_classifier_for_other_images_is_refused():
    with pytest.raises(InputError, match=r"takes images of shape \(1, 8, 8\) and has 4 classes; the data set has"):
        FactorySource(what="my_networks:whole").build_module(SHAPE, 5)


@pytest.mark.slow
def test_its_class_travels_to_where_the_file_is_not(own, tmp_path_factory):
    source = FactorySource(what="my_networks:plain")
    classifier = Classifier(source.build_module(SHAPE, 4), name="a", input_shape=SHAPE, num_classes=4)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "payload").write_bytes(pickle.dumps(classifier.to_payload(source)))
    images = torch.full((1, *SHAPE), 0.5)
    program = (
        "import pickle, torch; from sfi_ray import Classifier; "
        "c = Classifier.from_payload(pickle.load(open('payload', 'rb'))); "
        "print(c.log_probs(torch.full((1, 1, 8, 8), 0.5)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(eval(done.stdout)), classifier.log_probs(images))


def test_installed_code_travels_by_reference():
    source = FactorySource(what="torchvision.models:squeezenet1_0")
    with torch.random.fork_rng(devices=[]):
        module = source.build_module((3, 32, 32), 1000)
    classifier = Classifier(module, name="a", input_shape=(3, 32, 32), num_classes=1000, is_trained=False)
    assert b"torchvision.models.squeezenet" in classifier.to_payload(source).pickled
