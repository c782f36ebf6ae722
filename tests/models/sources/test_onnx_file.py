"""ONNX networks: they say what the same layers say in torch, in any form of input, and gradients are refused."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from sfi_ray import Job, launch
from sfi_ray.errors import InputError
from sfi_ray.job.classifier_text import parse_classifier
from sfi_ray.models import Classifier
from sfi_ray.models.sources.onnx_file import OnnxSource
from sfi_ray.review.verify import verify_run

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32) / 4


def written(batch="batch", numbers=TensorProto.FLOAT, shape=(1, 8, 8), inputs=("images",), width=10):
    """An ONNX file of one fully connected layer."""
    size = 192 if 3 in shape else 64
    weights = np.tile(WEIGHTS, (3, 1))[:size, :width]
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info(name, numbers, [batch, *shape]) for name in inputs],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, width])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def expected(images, mean=0.0, std=1.0):
    return torch.log_softmax((images - mean).div(std).flatten(1) @ torch.tensor(WEIGHTS), dim=1)


def loaded(tmp_path, content, **options):
    (tmp_path / "net.onnx").write_bytes(content)
    source = OnnxSource(what=str(tmp_path / "net.onnx"), **options)
    module, normalisation = source.load((1, 8, 8), 10)
    mean, std = normalisation or (None, None)
    return Classifier(module, name="net", input_shape=(1, 8, 8), num_classes=10, mean=mean, std=std)


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"batch": 4},
        {"shape": (8, 8, 1)},
        {"numbers": TensorProto.UINT8, "shape": (8, 8, 1)},
        {"numbers": TensorProto.UINT8, "batch": 1},
        {"numbers": TensorProto.DOUBLE},
        {"shape": (None, None, None)},
    ],
    ids=str,
)
def test_it_says_what_its_layers_say(form, tmp_path):
    known = loaded(tmp_path, written(**form))
    images = torch.randint(0, 256, (6, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    of_levels = images * 255 if form.get("numbers") == TensorProto.UINT8 else images
    assert torch.allclose(known.log_probs(images), expected(of_levels), atol=1e-4)
    assert known.batch_size == (form["batch"] if isinstance(form.get("batch"), int) else None)
    other = Classifier.from_payload(known.to_payload())
    assert torch.equal(other.log_probs(images), known.log_probs(images))


def test_mean_and_std_of_the_job_normalise_floats_and_not_levels(tmp_path):
    images = torch.rand(3, 1, 8, 8)
    known = loaded(tmp_path, written(), mean=(0.4,), std=(0.2,))
    assert torch.allclose(known.log_probs(images), expected(images, 0.4, 0.2), atol=1e-4)
    with pytest.raises(InputError, match="takes levels, 0 to 255, and normalises them itself; remove mean and std"):
        loaded(tmp_path, written(numbers=TensorProto.UINT8), mean=(0.4,), std=(0.2,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (written(shape=(3, 8, 8)), r"takes an input of shape \(any, 3, 8, 8\); images of the data set are \(1, 8, 8\)"),
        (written(shape=(64,)), r"takes an input of shape \(any, 64\)"),
        (written(numbers=TensorProto.INT64), "takes images of int64; it has to take uint8, float32"),
        (written(inputs=("images", "mask")), "has the inputs 'images', 'mask'; it has to take images and nothing else"),
        (written(width=9), r"has the outputs 'logits' of shape .*9\); just one of them has to have 10 numbers"),
        (b"\x89PNG\r\n\x1a\nno network", "is not an ONNX network, nor any other known kind|not an ONNX network"),
        (b"\x93NUMPY", "this is arrays of NumPy, not an ONNX network"),
        (written()[:-300], "."),
    ],
    ids=range(8),
)
def test_what_does_not_fit_is_named(content, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        loaded(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert "net.onnx" in str(caught.value)


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match="not installed here; install it with: uv sync --extra onnx"):
        loaded(tmp_path, written())


def test_two_files_are_two_networks(tmp_path):
    assert loaded(tmp_path, written()).fingerprint != loaded(tmp_path, written(shape=(8, 8, 1))).fingerprint


def test_a_run_is_verified_from_its_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(written())
    job = Job.model_validate(
        {
            "name": "onnx",
            "dataset": "digits",
            "classifiers": [parse_classifier("net.onnx")],
            "target_classes": [0, 1],
            "k": 3,
            "attack": {"kind": "sparse_rs", "max_evaluations": 20},
        }
    )
    run = launch(job, in_process=True)
    (tmp_path / "net.onnx").unlink()
    assert onnx.load_from_string((tmp_path / "runs/onnx/models/net.onnx").read_bytes())
    assert verify_run(run).num_faults == 0
