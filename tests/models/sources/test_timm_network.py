import sys

import pytest
import torch

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier, weights_bytes
from sfi_ray.models.sources.timm_network import TimmSource

SHAPE = (3, 224, 224)


def test_without_timm_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="timm, which is not installed here; install it with: uv sync --extra timm"):
        TimmSource(what="resnet50").load(SHAPE, 1000)


def test_weights_of_a_file_and_normalisation_of_the_pretrained_configuration(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv3_small_050.lamb_in1k", pretrained=False).eval()
    path = tmp_path / "m.safetensors"
    path.write_bytes(weights_bytes(theirs))
    source = TimmSource(what="mobilenetv3_small_050.lamb_in1k", weights=str(path))
    module, normalisation = source.load(SHAPE, 1000)
    configuration = theirs.pretrained_cfg
    assert normalisation == (tuple(configuration["mean"]), tuple(configuration["std"]))
    original = Classifier(module, name="a", input_shape=SHAPE, num_classes=1000, micro_batch=2)
    restored = Classifier.from_payload(original.to_payload(source), micro_batch=2)
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(restored.module(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert torch.equal(restored.log_probs(images), original.log_probs(images))


def test_another_image_size_is_refused_and_names_nearly_right_are_mended():
    pytest.importorskip("timm")
    with pytest.raises(InputError, match=r"takes images of shape \(3, 224, 224\), the data set has \(3, 32, 32\)"):
        TimmSource(what="mobilenetv3_small_050.lamb_in1k").build_module((3, 32, 32), 1000)
    with pytest.raises(InputError, match="timm has no network 'resnet50x'; did you mean 'resnet50"):
        TimmSource(what="resnet50x").build_module(SHAPE, 1000)


def test_without_a_file_and_a_network_the_message_says_what_to_give(monkeypatch):
    timm = pytest.importorskip("timm")
    real = timm.create_model

    def offline(name, *, pretrained, **options):
        if pretrained:
            raise OSError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"from timm/.*no route to host.*give the file as `weights: path/to/model\.saf"
    ):
        TimmSource(what="mobilenetv3_small_050.lamb_in1k").load(SHAPE, 1000)
