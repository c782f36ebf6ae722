import io
import pickle
import urllib.error
import urllib.request

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.models import Classifier
from sfi_ray.models.sources.torchvision_network import TorchvisionSource

SHAPE = (3, 224, 224)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache, empty, and no network."""

    def unreachable(*_arguments, **_options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch/hub/checkpoints"


def squeezenet(weights="IMAGENET1K_V1", **options):
    return TorchvisionSource(what="squeezenet1_0", weights=weights, **options)


def save_squeezenet(path):
    torch.manual_seed(0)
    network = models.squeezenet1_0(weights=None).eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT", "SqueezeNet1_0_Weights.IMAGENET1K_V1"])
def test_a_member_of_the_enum_is_read_from_torchs_cache(hub, weights):
    network = save_squeezenet(hub / "squeezenet1_0-b66bff10.pth")
    module, normalisation = squeezenet(weights).load(SHAPE, 1000)
    assert normalisation == (MEAN, STD)
    images = torch.rand(1, *SHAPE)
    with torch.no_grad():
        assert torch.equal(module.eval()(images), network(images))


def test_without_the_file_and_a_network_the_message_says_what_to_give_and_where(hub):
    with pytest.raises(InputError) as caught:
        squeezenet().load(SHAPE, 1000)
    message = str(caught.value)
    assert f"SqueezeNet1_0_Weights.IMAGENET1K_V1: {hub / 'squeezenet1_0-b66bff10.pth'} is not there" in message
    assert "download from https://download.pytorch.org/models/squeezenet1_0-b66bff10.pth failed" in message
    assert "`weights: path/to/squeezenet1_0-b66bff10.pth`" in message
    assert "no route to host" in message
    assert not [path for path in hub.rglob("*") if path.is_file()]


class Truncated:
    """A server that hangs up in the middle of a file."""

    def __init__(self):
        self.headers = {"Content-Length": "1000"}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def info(self):
        return self

    def get_all(self, _name):
        return ["1000"]

    def read(self, _size):
        if self.headers is None:
            raise ConnectionResetError("connection reset by peer")
        self.headers = None
        return b"half a file"


def test_a_download_that_breaks_off_leaves_no_file(hub, monkeypatch):
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_arguments, **_options: Truncated())
    with pytest.raises(InputError, match="connection reset by peer"):
        squeezenet().load(SHAPE, 1000)
    assert not [path for path in hub.rglob("*") if path.is_file()]


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (open, (str(self.mark), "w"))


def test_code_in_a_cached_file_is_not_run(hub, tmp_path):
    hub.mkdir(parents=True)
    torch.save(Hostile(tmp_path / "mark"), hub / "squeezenet1_0-b66bff10.pth")
    with pytest.raises(InputError, match=r"squeezenet1_0-b66bff10\.pth cannot be read"):
        squeezenet().load(SHAPE, 1000)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_file_brings_weights_and_the_default_members_preprocessing(hub, tmp_path, ending):
    path = tmp_path / f"mine{ending}"
    network = save_squeezenet(tmp_path / "mine.pth")
    if ending == ".safetensors":
        save_file({name: tensor.half() for name, tensor in network.state_dict().items()}, path)
    module, normalisation = squeezenet(str(path)).load(SHAPE, 1000)
    assert normalisation == (MEAN, STD)
    expected = network.state_dict()["classifier.1.bias"]
    torch.testing.assert_close(module.state_dict()["classifier.1.bias"], expected, atol=1e-4, rtol=1e-3)


def test_a_file_for_other_images_goes_with_its_own_normalisation(tmp_path):
    network = models.squeezenet1_0(weights=None, num_classes=10)
    torch.save(network.state_dict(), tmp_path / "mine.pt")
    own = squeezenet(str(tmp_path / "mine.pt"), mean=(0.5,) * 3, std=(0.25,) * 3)
    module, normalisation = own.load((3, 32, 32), 10)
    assert normalisation == ((0.5,) * 3, (0.25,) * 3)
    assert module.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    with pytest.raises(InputError, match=r"\(3, 224, 224\), the data set has \(3, 32, 32\).*give `mean` and `std`"):
        squeezenet(str(tmp_path / "mine.pt")).load((3, 32, 32), 10)


def test_another_image_size_is_refused_with_the_mend():
    inception = TorchvisionSource(what="inception_v3", weights="DEFAULT")
    with pytest.raises(InputError, match=r"\(3, 299, 299\), the data set has \(3, 224, 224\).*shape: \[3, 299, 299\]"):
        inception.build_module(SHAPE, 1000)


@pytest.mark.parametrize(
    ("what", "weights", "message"),
    [
        ("squeezenet1", "DEFAULT", r"no classification network 'squeezenet1'; did you mean 'squeezenet1_[01]'"),
        ("fcn_resnet50", "DEFAULT", "no classification network 'fcn_resnet50'"),
        ("squeezenet1_0", "IMAGENET1K_V9", "no weights 'IMAGENET1K_V9'; it has IMAGENET1K_V1, DEFAULT; or give a file"),
        ("squeezenet1_0", "ResNet18_Weights.DEFAULT", "no weights 'ResNet18_Weights.DEFAULT'"),
        ("squeezenet1_0", "none/such.pth", "no such file of weights"),
    ],
)
def test_what_does_not_exist_is_named(what, weights, message):
    with pytest.raises(InputError, match=message):
        TorchvisionSource(what=what, weights=weights).load(SHAPE, 1000)


# Auxiliary heads, an input transformed by the network itself, names of old files.
@pytest.mark.parametrize("name", ["googlenet", "densenet121", "shufflenet_v2_x0_5"])
def test_weights_as_torchvision_ships_them_give_torchvisions_network(hub, tmp_path, name):
    torch.manual_seed(0)
    options = {"transform_input": True, "init_weights": False} if name == "googlenet" else {}
    theirs = models.get_model(name, weights=None, **options)
    state = theirs.state_dict()
    if name == "densenet121":
        state = {
            key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
            for key, value in state.items()
            if "num_batches_tracked" not in key
        }
    torch.save(state, tmp_path / "shipped.pth")
    module, _ = TorchvisionSource(what=name, weights=str(tmp_path / "shipped.pth")).load(SHAPE, 1000)
    images = torch.rand(1, *SHAPE)
    with torch.no_grad():
        assert torch.equal(module.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize("name", ["squeezenet1_0", "swin_t", "inception_v3", "mobilenet_v3_small", "vit_b_32"])
def test_its_layers_are_built_without_weights_anywhere(name):
    source = TorchvisionSource(what=name, weights="DEFAULT")
    (size,) = models.get_model_weights(name).DEFAULT.transforms().crop_size
    network = source.build_empty((3, size, size), 1000)
    assert all(tensor.is_meta for tensor in network.state_dict().values())
    assert {name for name, _ in network.named_buffers()} <= network.state_dict().keys()


def test_it_travels_as_arrays_by_name(tmp_path):
    save_squeezenet(tmp_path / "mine.pth")
    source = squeezenet(str(tmp_path / "mine.pth"))
    module, (mean, std) = source.load(SHAPE, 1000)
    original = Classifier(module, name="a", input_shape=SHAPE, num_classes=1000, mean=mean, std=std, micro_batch=2)
    (tmp_path / "mine.pth").unlink()  # the place it arrives at does not have it
    payload = pickle.loads(pickle.dumps(original.to_payload(source)))
    assert payload.source == source
    assert payload.pickled is None
    restored = Classifier.from_payload(payload, micro_batch=2)
    images = torch.rand(3, *SHAPE)
    assert torch.equal(restored.log_probs(images), original.log_probs(images))
    assert restored.fingerprint == original.fingerprint


def test_trained_weights_classify_photographs(shared_data):
    """24 of the 1,000, of which the whole file gives 61.4 %, cropped without being resized first."""
    source = squeezenet(str(shared_data / "squeezenet1_0-imagenet.safetensors"))
    module, (mean, std) = source.load(SHAPE, 1000)
    classifier = Classifier(module, name="a", input_shape=SHAPE, num_classes=1000, mean=mean, std=std)
    table = pq.read_table(shared_data / "imagenet-sample/val.parquet").slice(0, 24)
    crops, labels = [], []
    for row in table.to_pylist():
        image = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
        top, left = ((size - 224) // 2 for size in image.shape[:2])
        crops.append(torch.from_numpy(image[top : top + 224, left : left + 224].copy()).permute(2, 0, 1))
        labels.append(row["label"])
    predicted = classifier.log_probs(torch.stack(crops).float() / 255).argmax(dim=1)
    assert int((predicted == torch.tensor(labels)).sum()) >= 10


def test_null_weights_are_random_and_the_same_every_time():
    shape = (3, 32, 32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    source = TorchvisionSource(what="resnet18")
    (first, normalisation), (second, _) = source.load(shape, 7), source.load(shape, 7)
    assert normalisation is None
    assert torch.equal(torch.get_rng_state(), before)
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    answers = [network.eval()(images) for network in (first, second)]
    assert answers[0].shape == (2, 7)
    assert torch.equal(*answers)
    assert source.describe() == "torchvision: resnet18"


def test_null_weights_have_to_be_said():
    assert ClassifierSpec.model_validate({"torchvision": "resnet18", "weights": None}).source.weights is None
    with pytest.raises(ValueError, match=r"torchvision needs `weights`: .* or null for random weights"):
        ClassifierSpec.model_validate({"torchvision": "resnet18"})
    written = ClassifierSpec.model_validate({"torchvision": "resnet18", "weights": None}).model_dump(mode="json")
    assert ClassifierSpec.model_validate(written).name == "resnet18"
