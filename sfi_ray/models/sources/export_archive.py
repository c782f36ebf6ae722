"""Reading a file of ``torch.export.save`` as data, so that nothing in it can run.

``torch.export.load`` unpickles what a file says is to be unpickled, evaluates its symbolic expressions and executes
the guards and names in it as Python. Here the JSON of the graph is read, and the raw bytes of the tensors; whatever
would need code is refused. `ExportedNetwork` runs the graph.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfi_ray.errors import InputError

_MAJOR_VERSION = 8
_STRIDED = 7
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
    """Reads an exported network without running anything of it.

    Args:
        content: The file.
        source: What messages call it.

    Raises:
        InputError: If the file is no export, is of another version, or needs code.
    """
    try:
        return _read(content, source)
    except InputError:
        raise
    # zipfile raises NotImplementedError for a compression or an encryption that it does not know.
    except (zipfile.BadZipFile, NotImplementedError, LookupError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{source}: not a network that torch.export.save wrote, or not one of torch {torch.__version__} "
            f"({type(error).__name__}: {error}); export it again: torch.export.save(program, 'model.pt2')"
        ) from error


def _read(content: bytes, source: str) -> ExportedGraph:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name.partition("/")[2]: name for name in archive.namelist()}
        program = json.loads(archive.read(files["models/model.json"]))
        if program["schema_version"]["major"] != _MAJOR_VERSION:
            raise ValueError(f"version {program['schema_version']['major']} of the format, not {_MAJOR_VERSION}")
        if any(name.startswith("data/aotinductor/") for name in files):
            raise InputError(f"{source}: holds compiled code, which is never run; export the network without it")
        stored: dict[str, Tensor] = {}
        for folder in ("weights", "constants"):
            config = json.loads(archive.read(files[f"data/{folder}/model_{folder}_config.json"]))["config"]
            for name, payload in config.items():
                if payload["use_pickle"] or payload["tensor_meta"] is None:
                    raise InputError(
                        f"{source}: {name} is a pickled object, and this program never unpickles code; export a "
                        "network of plain tensors"
                    )
                stored[name] = _tensor(archive.read(files[f"data/{folder}/{payload['path_name']}"]), payload)
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


def _tensor(raw: bytes, payload: dict[str, Any]) -> Tensor:
    """Makes a tensor of its own from raw bytes and what the file says of them."""
    meta = payload["tensor_meta"]
    if meta["layout"] != _STRIDED:
        raise ValueError(f"a tensor of layout {meta['layout']}")
    sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    if math.prod(sizes) == 0:
        return torch.zeros(sizes, dtype=DTYPES[meta["dtype"]])
    flat = torch.frombuffer(bytearray(raw), dtype=DTYPES[meta["dtype"]])
    # as_strided refuses what would reach beyond the bytes.
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"])).clone()
