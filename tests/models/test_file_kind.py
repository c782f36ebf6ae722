"""What is not what was wanted is named as what it is, by its content and whatever its name, with the mend."""

import io
import json
import pickle
import tarfile
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import read_state_dict
from sfi_ray.models.files.file_kind import kind_of
from sfi_ray.models.sources.export_file import ExportSource

NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()


def field(number, value):
    """A field of a protocol buffer: a number, or bytes shorter than 128."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def archive(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    return buffer.getvalue()


def written(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def torchscript():
    return written(lambda buffer: torch.jit.save(torch.jit.trace(NETWORK, torch.rand(1, 1, 2, 2)), buffer))


def package():
    def write(buffer):
        with torch.package.PackageExporter(buffer) as exporter:
            exporter.save_pickle("model", "model.pkl", {"weight": torch.zeros(2)})

    return written(write)


def export():
    return written(lambda buffer: torch.export.save(torch.export.export(NETWORK, (torch.rand(1, 1, 2, 2),)), buffer))


ONNX = field(1, 8) + field(2, b"pytorch") + field(7, field(1, field(4, b"Relu"))) + field(8, field(2, 17))
GRAPH = field(1, b"\n\x01x") * 3 + field(4, b"\x08\x15")
SAVED_MODEL = field(1, 1) + field(2, b"\n\x00")
OTHERS = {
    "ONNX": (lambda: ONNX, "an ONNX network"),
    "TorchScript": (torchscript, "a TorchScript archive, which holds code"),
    "torch.package": (package, "an archive of torch.package, which holds code"),
    "AOTInductor": (lambda: archive(**{"m/data/aotinductor/model/a.so": ""}), "a compiled network of AOTInductor"),
    "old export": (lambda: archive(**{"serialized_exported_program.json": "{}"}), "an export of an older torch"),
    "h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(100), r"a file of Keras \(TensorFlow\)"),
    "keras": (lambda: archive(**{"config.json": "{}", "model.weights.h5": ""}), r"a file of Keras \(TensorFlow\)"),
    "pb": (lambda: GRAPH, "a network of TensorFlow"),
    "saved model": (lambda: SAVED_MODEL, "a network of TensorFlow"),
    "tflite": (lambda: b"\x1c\x00\x00\x00TFL3" + bytes(50), "a network of TensorFlow Lite"),
    "npz": (lambda: written(lambda buffer: np.savez(buffer, weight=np.zeros(2))), "arrays of NumPy"),
    "npy": (lambda: written(lambda buffer: np.save(buffer, np.zeros(2))), "arrays of NumPy"),
    "GGUF": (lambda: b"GGUF\x03\x00\x00\x00" + bytes(50), "a GGUF file"),
    "pickle": (lambda: pickle.dumps({"weight": [1.0]}), "a pickle that torch.save did not write"),
    "tar": (tar, "a tar archive"),
    "gzip": (lambda: b"\x1f\x8b\x08\x00" + bytes(50), "a gzip file"),
    "OpenVINO": (lambda: b"<?xml version='1.0'?><net name='x'/>", "an XML file, as OpenVINO's networks are"),
    "index": (lambda: json.dumps({"weight_map": {}}).encode(), "a JSON file"),
    "LFS": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "web page": (lambda: b"\n<!DOCTYPE html><html></html>", "a web page"),
    "zip": (lambda: archive(readme="hello"), "a zip archive of something else"),
}
NEITHER = {
    "text": lambda: b"hello",
    "noise": lambda: b"\xff" * 100,
    "nothing": lambda: b"\0" * 100,
    "one byte": lambda: b"\x80",
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pt2"])
@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:TypedStorage")
def test_what_is_neither_weights_nor_export_is_named_with_a_mend(name, suffix, tmp_path):
    make, text = OTHERS[name]
    file = tmp_path / f"model{suffix}"
    file.write_bytes(make())
    with pytest.raises(InputError, match=rf"model\{suffix}: this is {text}.*, not a file of weights; \w+"):
        read_state_dict(file)
    with pytest.raises(InputError, match=rf"model\{suffix}: this is {text}.*, not a file of torch.export.save; \w+"):
        ExportSource(what=str(file)).build_module((1, 2, 2), 2)


@pytest.mark.parametrize("name", NEITHER)
def test_what_nobody_knows_is_refused(name, tmp_path):
    file = tmp_path / "model"
    file.write_bytes(NEITHER[name]())
    with pytest.raises(InputError, match=r"model: not a file of weights, nor any other known kind of file; save"):
        read_state_dict(file)
    with pytest.raises(InputError, match=r"model: not a file of torch.export.save, nor any other known kind of file;"):
        ExportSource(what=str(file)).build_module((1, 2, 2), 2)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda file: safetensors.torch.save_file(NETWORK.state_dict(), file),
            "a safetensors file, which holds weights",
        ),
        (
            lambda file: torch.save(NETWORK.state_dict(), file),
            "a file of torch.save, which holds weights without layers",
        ),
        (
            lambda file: torch.save(NETWORK.state_dict(), file, _use_new_zipfile_serialization=False),
            "a file of torch.save, which holds weights without layers",
        ),
    ],
    ids=["safetensors", "torch.save", "old torch.save"],
)
def test_weights_given_as_an_export_are_named(write, text, tmp_path):
    write(tmp_path / "model.pt2")
    with pytest.raises(
        InputError, match=rf"this is {text}.*give it as `weights` beside the network that it belongs to"
    ):
        ExportSource(what=str(tmp_path / "model.pt2")).build_module((1, 2, 2), 2)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_a_whole_module_given_as_an_export_is_named(is_old, tmp_path):
    torch.save(NETWORK, tmp_path / "model.pt2", _use_new_zipfile_serialization=not is_old)
    with pytest.raises(
        InputError, match=r"a pickled object of torch\.nn\S*\.Sequential, which is code, .* load it and"
    ):
        ExportSource(what=str(tmp_path / "model.pt2")).build_module((1, 2, 2), 2)


def test_an_export_given_as_weights_is_named(tmp_path):
    (tmp_path / "model.pt").write_bytes(export())
    with pytest.raises(InputError, match=r"this is a file of torch\.export.save, .*; give it as `export`, without"):
        read_state_dict(tmp_path / "model.pt")


def test_folders_are_named(tmp_path):
    with pytest.raises(InputError, match=r"this is a folder, not a file of torch\.export.save; name the file in it"):
        ExportSource(what=str(tmp_path)).build_module((1, 2, 2), 2)
    (tmp_path / "saved_model.pb").write_bytes(SAVED_MODEL)
    with pytest.raises(InputError, match="this is a network of TensorFlow, not a file of weights"):
        read_state_dict(tmp_path)


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:TypedStorage")
def test_parts_of_files_are_of_some_kind():
    for make in (torchscript, export, tar, package):
        content = make()
        for size in (0, 1, 2, 9, 100, len(content) // 2, len(content) - 1):
            assert kind_of(io.BytesIO(content[:size])).what
