"""What a file of a network is, told by its content, and what to do with one that is not what was wanted."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from sfi_ray.errors import InputError
from sfi_ray.models.files.bounded_reading import open_archive, size_of
from sfi_ray.models.files.plain_pickle import Made
from sfi_ray.models.files.torch_file import FAULTS, OLD_FORM, TorchFile, as_dictionary

WEIGHTS = "a file of weights"
EXPORTED = "a file of torch.export.save"

_EXPORT_AGAIN = "export the PyTorch network that it was made of: torch.export.save(program, 'model.pt2')"
_AS_WEIGHTS = (
    "give it as `weights` beside the network that it belongs to (`architecture`, `torchvision`, `timm` or `factory`)"
)
_WRAP = "or wrap it in a factory of your own (`factory: package.module:callable`)"
#: How weights are saved so that this program reads them.
HOW_TO_SAVE = (
    "save the weights with safetensors.torch.save_file(module.state_dict(), 'weights.safetensors'), "
    "or as a plain dict of tensors with torch.save"
)


@dataclass(frozen=True, slots=True)
class FileKind:
    """What a file is.

    Attributes:
        form: How it is read; ``other`` is not.
        text: What messages call it.
        mend: What to do with it where something else is wanted.
    """

    form: Literal["safetensors", "torch", "export", "other"]
    text: str
    mend: str

    def refusal(self, path: Path | str, wanted: str) -> InputError:
        """Returns the error that names the file, what it is, and the mend.

        Args:
            path: The file.
            wanted: What it should be: `WEIGHTS` or `EXPORTED`.
        """
        to_save = HOW_TO_SAVE if wanted == WEIGHTS else _EXPORT_AGAIN
        return InputError(f"{path}: {self.text.replace('{wanted}', wanted)}; {self.mend.replace('{to_save}', to_save)}")


def _kind(form: Literal["safetensors", "torch", "export", "other"], what: str, mend: str) -> FileKind:
    return FileKind(form, f"this is {what}, not {{wanted}}", mend)


def _other(what: str, mend: str) -> FileKind:
    return _kind("other", what, mend)


SAFETENSORS = _kind("safetensors", "a safetensors file, which holds weights without layers", _AS_WEIGHTS)
TORCH = _kind("torch", "a file of torch.save, which holds weights without layers", _AS_WEIGHTS)
EXPORT = _kind(
    "export", "a file of torch.export.save, which holds layers too", "give it as `export`, without `weights`"
)

_ONNX = _other("an ONNX network", f"{_EXPORT_AGAIN}, {_WRAP}")
_KERAS = _other("a file of Keras (TensorFlow)", f"only PyTorch's networks are run; convert it, {_WRAP}")
_TENSORFLOW = _other("a network of TensorFlow", f"only PyTorch's networks are run; convert it, {_WRAP}")
_TORCHSCRIPT = _other("a TorchScript archive, which holds code", f"{_EXPORT_AGAIN}, {_WRAP}")
_PACKAGE = _other("an archive of torch.package, which holds code", f"{_EXPORT_AGAIN}, {_WRAP}")
_OLD_EXPORT = _other(
    "an export of an older torch",
    "load it there and export the network again with the torch that is installed here",
)
_COMPILED = _other("a compiled network of AOTInductor, which is code", _EXPORT_AGAIN)
_UNWHOLE = FileKind("other", "not a whole zip archive", "copy or save it again")
_UNKNOWN = FileKind("other", "not {wanted}, nor anything else that is known", "{to_save}")
_NUMPY = _other("arrays of NumPy", "{to_save}")

# How files begin.
_BEGINNINGS = (
    (b"\x89HDF\r\n\x1a\n", _KERAS),
    (b"\x93NUMPY", _NUMPY),
    (b"GGUF", _other("a GGUF file", "{to_save}")),
    (b"\x1f\x8b", _other("a gzip file", "unpack it first")),
    (b"BZh", _other("a bzip2 file", "unpack it first")),
    (b"\xfd7zXZ", _other("an xz file", "unpack it first")),
    (b"7z\xbc\xaf", _other("a 7-Zip file", "unpack it first")),
    (b"\x28\xb5\x2f\xfd", _other("a zstd file", "unpack it first")),
    (
        b"version https://git-lfs",
        _other("a pointer of Git LFS, and not the file itself", "fetch it with: git lfs pull"),
    ),
)
_WEB_PAGE = _other("a web page", "download the file itself")
_OPENVINO = _other("an XML file, as OpenVINO's networks are", f"{_EXPORT_AGAIN}, {_WRAP}")
_JSON = _other("a JSON file, which names weights at most", "give the file of weights itself")
_TAR = _other("a tar archive", "unpack it first, or load and save it with a present torch")
_TFLITE = _other("a network of TensorFlow Lite", f"only PyTorch's networks are run; convert it, {_WRAP}")
_BARE_PICKLE = _other("a pickle that torch.save did not write", "this program never unpickles code; {to_save}")


def open_file(path: Path, wanted: str) -> BinaryIO:
    """Opens a file for reading.

    Args:
        path: The file.
        wanted: What it should be: `WEIGHTS` or `EXPORTED`.

    Raises:
        InputError: It is not there, no file, empty, or cannot be read.
    """
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            raise _TENSORFLOW.refusal(path, wanted)
        raise InputError(f"{path}: this is a folder, not {wanted}; name the file in it")
    if not path.is_file():
        raise InputError(f"{path}: there is no such {wanted.removeprefix('a ')}")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; copy or save it again")
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def kind_of(stream: BinaryIO) -> FileKind:
    """Finds out what a file is, and goes to its beginning."""
    size = size_of(stream)
    head = stream.read(512)
    try:
        return _kind_of_content(stream, head, size)
    finally:
        stream.seek(0)


def kind_of_saved(stream: BinaryIO) -> FileKind:
    """Finds out whether a file of ``torch.save`` holds weights, or an object that only its own code can make."""
    try:
        content = TorchFile(stream).content
    except FAULTS:
        return TORCH
    if as_dictionary(content) is not None or not isinstance(content, Made):
        return TORCH
    return _other(
        f"a pickled object of {content.by[:100] or 'an unknown class'}, which is code",
        "where you trust the file, load it, and export the network: torch.export.save(program, 'model.pt2')",
    )


def _kind_of_content(stream: BinaryIO, head: bytes, size: int) -> FileKind:
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(stream)
    for beginning, kind in _BEGINNINGS:
        if head.startswith(beginning):
            return kind
    if head.startswith(OLD_FORM):
        return TORCH
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _BARE_PICKLE
    if head[8:9] == b"{":
        return SAFETENSORS
    if head[4:8] == b"TFL3":
        return _TFLITE
    if head[257:262] == b"ustar":
        return _TAR
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _WEB_PAGE
    if text.startswith(b"<"):
        return _OPENVINO
    if text.startswith(b"{"):
        return _JSON
    return _kind_of_message(stream, size)


def _kind_of_archive(stream: BinaryIO) -> FileKind:
    try:
        with open_archive(stream) as archive:
            names = archive.namelist()
    # zipfile raises NotImplementedError for an archive of a newer format, or of a compression that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return _UNWHOLE
    # All lies in one folder, unless the archive is of something else than torch.
    inner = {name.partition("/")[2] for name in names}
    if "models/model.json" in inner:
        return EXPORT
    if "constants.pkl" in inner:
        return _TORCHSCRIPT
    if any(name.startswith("data/aotinductor/") for name in inner):
        return _COMPILED
    if {"serialized_exported_program.json", "serialized_exported_program.pt"} & {*names, *inner}:
        return _OLD_EXPORT
    if any(name.startswith(".data/") and not name.endswith("serialization_id") for name in inner):
        return _PACKAGE
    if "data.pkl" in inner:
        return TORCH
    if "model.weights.h5" in names:
        return _KERAS
    if names and all(name.endswith(".npy") for name in names):
        return _NUMPY
    return _other("a zip archive of something else", "unpack it first, or name another file")


def _kind_of_message(stream: BinaryIO, size: int) -> FileKind:
    """Tells the protocol buffers of ONNX and TensorFlow, which have no mark, by the numbers of their fields."""
    fields: list[int] = []
    stream.seek(0)
    while stream.tell() < size and len(fields) < 64:
        tag = _varint(stream)
        length = 0 if tag is None else _varint(stream)
        if tag is None or length is None or tag & 7 not in (0, 2):
            return _UNKNOWN
        fields.append(tag >> 3)
        if tag & 7 == 2:
            if stream.tell() + length > size:
                return _UNKNOWN
            stream.seek(length, 1)
    # ModelProto: ir_version = 1, graph = 7, opset_import = 8. SavedModel: schema version = 1, meta_graphs = 2.
    # GraphDef: node = 1 over and over.
    found = set(fields)
    if {1, 7} <= found <= {*range(1, 9), 14, 20, 25, 26}:
        return _ONNX
    return _TENSORFLOW if found == {1, 2} or (found <= {1, 2, 4} and fields.count(1) > 1) else _UNKNOWN


def _varint(stream: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 64, 7):
        byte = stream.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None
