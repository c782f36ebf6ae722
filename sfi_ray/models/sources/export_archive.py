"""Reads a file of ``torch.export.save`` as data, so that nothing in it can run.

``torch.export.load`` unpickles parts of a file, evaluates its symbolic expressions, and executes its guards and names
as Python. Here only the JSON of the graph and the raw bytes of the tensors are read; a file that needs code is refused.
`ExportedNetwork` runs the graph.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from sfi_ray.errors import InputError
from sfi_ray.models.files.bounded_reading import check_expansion, open_archive, read_member, size_of, tensor_of
from sfi_ray.models.files.file_kind import Wanted, kind_of, kind_of_saved
from sfi_ray.models.files.torch_file import FAULTS

# Numbers of torch's export schema.
DTYPES: Mapping[int, torch.dtype] = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
    13: torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A network as data.

    Attributes:
        nodes: Calls of operators in order, as the file's JSON has them.
        tensors: Parameters, buffers and constants, by their name in the graph.
        image_name: Name of the input in the graph.
        image_shape: Its sizes, batch first; None where any size goes.
        output_name: Name of the output in the graph.
    """

    nodes: list[dict[str, Any]]
    tensors: dict[str, Tensor]
    image_name: str
    image_shape: tuple[int | None, ...]
    output_name: str


def read_export(content: bytes, source: str) -> ExportedGraph:
    """Reads an exported network without running anything of it; messages call the file `source`.

    Raises:
        InputError: If the file is no export, is of another version, or needs code.
    """
    stream = io.BytesIO(content)
    kind = kind_of(stream)
    if kind.form == "torch":
        kind = kind_of_saved(stream)
    if kind.form != "export":
        raise kind.refusal(source, Wanted.EXPORT)
    try:
        return _read(stream, source)
    except InputError:
        raise
    except FAULTS as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"{source}: not a network that torch.export.save wrote, or not one of torch {torch.__version__} "
            f"({type(error).__name__}: {reason}); export it again: torch.export.save(program, 'model.pt2')"
        ) from error


def _read(stream: BinaryIO, source: str) -> ExportedGraph:
    known_version = 8
    most_json = 2**26  # thirty thousand operators with all that torch notes of each
    with open_archive(stream) as archive:
        files = {name.partition("/")[2]: name for name in archive.namelist()}
        program = json.loads(read_member(archive, files["models/model.json"], most_json))
        if program["schema_version"]["major"] != known_version:
            raise ValueError(f"version {program['schema_version']['major']} of the format, not {known_version}")
        if any(name.startswith("data/aotinductor/") for name in files):
            raise InputError(f"{source}: holds compiled code, which is never run; export the network without it")
        payloads: dict[str, tuple[str, dict[str, Any]]] = {}
        for folder in ("weights", "constants"):
            config = read_member(archive, files[f"data/{folder}/model_{folder}_config.json"], most_json)
            for name, payload in json.loads(config)["config"].items():
                if payload["use_pickle"] or payload["tensor_meta"] is None:
                    raise InputError(
                        f"{source}: {name} is a pickled object, and this program never unpickles code; export a "
                        "network of plain tensors"
                    )
                payloads[name] = (files[f"data/{folder}/{payload['path_name']}"], payload["tensor_meta"])
        check_expansion(
            ((_numbers(meta["sizes"]), DTYPES[meta["dtype"]]) for _, meta in payloads.values()), size_of(stream)
        )
        raw = {member: bytearray(read_member(archive, member)) for member, _ in payloads.values()}
        stored = {name: _tensor(raw[member], meta, name) for name, (member, meta) in payloads.items()}
    module = program["graph_module"]
    graph = module["graph"]
    tensors: dict[str, Tensor] = {}
    images: list[str] = []
    for spec in module["signature"]["input_specs"]:
        ((kind, what),) = spec.items()
        if kind == "user_input":
            images.append(what["arg"]["as_tensor"]["name"])
        elif kind in ("parameter", "buffer", "tensor_constant"):
            tensors[what["arg"]["name"]] = stored[what[f"{kind}_name"]]
        else:
            raise InputError(f"{source}: has an input of the kind {kind}; a classifier takes images alone")
    outputs = module["signature"]["output_specs"]
    if len(images) != 1 or len(outputs) != 1 or "user_output" not in outputs[0]:
        raise InputError(
            f"{source}: has {len(images)} inputs and {len(outputs)} outputs (changed buffers count); a classifier "
            "takes one batch of images and returns logits, exported after module.eval()"
        )
    sizes = graph["tensor_values"][images[0]]["sizes"]
    return ExportedGraph(
        nodes=graph["nodes"],
        tensors=tensors,
        image_name=images[0],
        image_shape=tuple(size.get("as_int") for size in sizes),
        output_name=outputs[0]["user_output"]["arg"]["as_tensor"]["name"],
    )


def _tensor(raw: bytearray, meta: dict[str, Any], name: str) -> Tensor:
    """Makes a tensor of its own from raw bytes and what the file says of them."""
    strided = 7  # a number of torch's export schema
    if meta["layout"] != strided:
        raise ValueError(f"a tensor of layout {meta['layout']}")
    sizes, strides = _numbers(meta["sizes"]), _numbers(meta["strides"])
    return tensor_of(raw, DTYPES[meta["dtype"]], sizes, strides, meta["storage_offset"]["as_int"], name)


def _numbers(sizes: list[dict[str, Any]]) -> list[int]:
    return [size["as_int"] for size in sizes]
