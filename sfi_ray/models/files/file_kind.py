"""The kind of a file of a network, told by its content, and the mend where another kind is wanted."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, Literal

from sfi_ray.errors import InputError
from sfi_ray.models.files.bounded_reading import open_archive, size_of
from sfi_ray.models.files.plain_pickle import Made
from sfi_ray.models.files.torch_file import FAULTS, TorchFile, as_dictionary


class Wanted(StrEnum):
    """The wanted kind of a file."""

    WEIGHTS = "a file of weights"
    EXPORT = "a file of torch.export.save"
    ONNX = "an ONNX network"

    @property
    def how_to_save(self) -> str:
        """How to save it so that this program reads it."""
        if self is Wanted.EXPORT:
            return "export the PyTorch network that it was made of: torch.export.save(program, 'model.pt2')"
        if self is Wanted.ONNX:
            return "write one, for example with torch.onnx.export(network, (images,), 'model.onnx')"
        return (
            "save the weights with safetensors.torch.save_file(module.state_dict(), 'weights.safetensors'), "
            "or as a plain dict of tensors with torch.save"
        )


_Form = Literal["safetensors", "torch", "export", "onnx", "other"]


@dataclass(frozen=True, slots=True)
class FileKind:
    """The kind of a file.

    Attributes:
        what: Its name in messages.
        mend: The mend where another kind is wanted. It may hold ``{save}``, how to save what is wanted; ``{export}``,
            how to export a network; and ``{wrap}``, how to bring a network by code of one's own.
        form: How it is read; ``other`` is not.
        beginning: The first bytes, where these tell the kind.
    """

    what: str
    mend: str
    form: _Form = "other"
    beginning: bytes = b""

    def refusal(self, path: Path | str, wanted: Wanted) -> InputError:
        """Returns the error that names the file, what it is, and the mend."""
        mend = self.mend.format(
            save=wanted.how_to_save,
            export=Wanted.EXPORT.how_to_save,
            wrap="or wrap it in a factory of your own (`factory: package.module:callable`)",
        )
        return InputError(f"{path}: {self.what.replace('{wanted}', wanted)}; {mend}")


def _kind(
    what: str,
    mend: str,
    form: _Form = "other",
    beginning: bytes = b"",
) -> FileKind:
    return FileKind(f"this is {what}, not {{wanted}}", mend, form, beginning)


def _weights(form: Literal["safetensors", "torch"], what: str) -> FileKind:
    beside = "(`architecture`, `torchvision`, `timm` or `factory`)"
    return _kind(
        f"{what}, which holds weights without layers",
        f"give it as `weights` beside the network that it belongs to {beside}",
        form,
    )


_KINDS: Mapping[str, FileKind] = {
    "safetensors": _weights("safetensors", "a safetensors file"),
    "torch": _weights("torch", "a file of torch.save"),
    "export": _kind(
        "a file of torch.export.save, which holds layers too", "give it as `export`, without `weights`", "export"
    ),
    "onnx": _kind("an ONNX network", "give it as `onnx`, without `weights`", "onnx"),
    "keras": _kind(
        "a file of Keras (TensorFlow)",
        "load it in a function of your own (`predict: package.module:callable`)",
        beginning=b"\x89HDF\r\n\x1a\n",
    ),
    "tensorflow": _kind(
        "a network of TensorFlow", "load it in a function of your own (`predict: package.module:callable`)"
    ),
    "tflite": _kind(
        "a network of TensorFlow Lite", "load it in a function of your own (`predict: package.module:callable`)"
    ),
    "torchscript": _kind("a TorchScript archive, which holds code", "{export}, {wrap}"),
    "package": _kind("an archive of torch.package, which holds code", "{export}, {wrap}"),
    "old export": _kind(
        "an export of an older torch", "load it there and export the network again with the torch installed here"
    ),
    "compiled": _kind("a compiled network of AOTInductor, which is code", "{export}"),
    "openvino": _kind("an XML file, as OpenVINO's networks are", "{export}, {wrap}"),
    "pickle": _kind("a pickle that torch.save did not write", "this program never unpickles code; {save}"),
    "numpy": _kind("arrays of NumPy", "{save}", beginning=b"\x93NUMPY"),
    "gguf": _kind("a GGUF file", "{save}", beginning=b"GGUF"),
    "gzip": _kind("a gzip file", "unpack it first", beginning=b"\x1f\x8b"),
    "bzip2": _kind("a bzip2 file", "unpack it first", beginning=b"BZh"),
    "xz": _kind("an xz file", "unpack it first", beginning=b"\xfd7zXZ"),
    "7-zip": _kind("a 7-Zip file", "unpack it first", beginning=b"7z\xbc\xaf"),
    "zstd": _kind("a zstd file", "unpack it first", beginning=b"\x28\xb5\x2f\xfd"),
    "tar": _kind("a tar archive", "unpack it first, or load and save it with a present torch"),
    "zip": _kind("a zip archive of something else", "unpack it first, or name another file"),
    "lfs": _kind(
        "a pointer of Git LFS, and not the file itself",
        "fetch it with: git lfs pull",
        beginning=b"version https://git-lfs",
    ),
    "web page": _kind("a web page", "download the file itself"),
    "json": _kind("a JSON file, which at most names weights", "give the file of weights itself"),
    "broken zip": FileKind("not a whole zip archive", "copy or save it again"),
    "unknown": FileKind("not {wanted}, nor any other known kind of file", "{save}"),
}


def open_file(path: Path, wanted: Wanted) -> BinaryIO:
    """Opens a file for reading.

    Raises:
        InputError: It is not there, no file, empty, or cannot be read.
    """
    if path.is_dir():
        if (path / "saved_model.pb").exists():
            raise _KINDS["tensorflow"].refusal(path, wanted)
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
        return _KINDS["torch"]
    if as_dictionary(content) is not None or not isinstance(content, Made):
        return _KINDS["torch"]
    return _kind(
        f"a pickled object of {content.by[:100] or 'an unknown class'}, which is code",
        "if you trust the file, load it and export the network: torch.export.save(program, 'model.pt2')",
    )


def _kind_of_content(stream: BinaryIO, head: bytes, size: int) -> FileKind:
    if head.startswith(b"PK\x03\x04"):
        return _kind_of_archive(stream)
    for kind in _KINDS.values():
        if kind.beginning and head.startswith(kind.beginning):
            return kind
    if head.startswith(TorchFile.old_form):
        return _KINDS["torch"]
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _KINDS["pickle"]
    if head[8:9] == b"{":
        return _KINDS["safetensors"]
    if head[4:8] == b"TFL3":
        return _KINDS["tflite"]
    if head[257:262] == b"ustar":
        return _KINDS["tar"]
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return _KINDS["web page"]
    if text.startswith(b"<"):
        return _KINDS["openvino"]
    if text.startswith(b"{"):
        return _KINDS["json"]
    return _kind_of_message(stream, size)


def _kind_of_archive(stream: BinaryIO) -> FileKind:
    try:
        with open_archive(stream) as archive:
            names = archive.namelist()
    # zipfile raises NotImplementedError for an archive of a newer format, or of a compression that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return _KINDS["broken zip"]
    # All lies in one folder, unless the archive is of something else than torch.
    inner = {name.partition("/")[2] for name in names}
    if "models/model.json" in inner:
        return _KINDS["export"]
    if "constants.pkl" in inner:
        return _KINDS["torchscript"]
    if any(name.startswith("data/aotinductor/") for name in inner):
        return _KINDS["compiled"]
    if {"serialized_exported_program.json", "serialized_exported_program.pt"} & {*names, *inner}:
        return _KINDS["old export"]
    if any(name.startswith(".data/") and not name.endswith("serialization_id") for name in inner):
        return _KINDS["package"]
    if "data.pkl" in inner:
        return _KINDS["torch"]
    if "model.weights.h5" in names:
        return _KINDS["keras"]
    if names and all(name.endswith(".npy") for name in names):
        return _KINDS["numpy"]
    return _KINDS["zip"]


def _kind_of_message(stream: BinaryIO, size: int) -> FileKind:
    """Tells the protocol buffers of ONNX and TensorFlow, which have no mark, by the numbers of their fields."""
    fields: list[int] = []
    stream.seek(0)
    while stream.tell() < size and len(fields) < 64:
        tag = _varint(stream)
        length = 0 if tag is None else _varint(stream)
        if tag is None or length is None or tag & 7 not in (0, 2):
            return _KINDS["unknown"]
        fields.append(tag >> 3)
        if tag & 7 == 2:
            if stream.tell() + length > size:
                return _KINDS["unknown"]
            stream.seek(length, 1)
    # ModelProto: ir_version = 1, graph = 7, opset_import = 8. SavedModel: schema version = 1, meta_graphs = 2.
    # GraphDef: node = 1 over and over.
    found = set(fields)
    if {1, 7} <= found <= {*range(1, 9), 14, 20, 25, 26}:
        return _KINDS["onnx"]
    return (
        _KINDS["tensorflow"] if found == {1, 2} or (found <= {1, 2, 4} and fields.count(1) > 1) else _KINDS["unknown"]
    )


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
