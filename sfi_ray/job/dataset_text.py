"""A data set in one line, for the command line: the `dataset` of a job file, or a short form."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sfi_ray.data import DatasetSpec
from sfi_ray.errors import InputError
from sfi_ray.hub import is_on_hub
from sfi_ray.job.loader import parse_job


def parse_dataset(text: str) -> DatasetSpec:
    """Reads a data set.

    Args:
        text: Its name, a folder or parquet file, or the value of the key `dataset` of a job, in braces.

    Raises:
        InputError: It is none of these.
    """
    text = text.strip()
    path = Path(text).expanduser()
    if text.startswith("{"):
        written = text
    elif "/" in text or path.suffix == ".parquet":
        if not is_on_hub(text) and not path.exists():
            raise InputError(
                f"there is no file or folder '{text}'; give the name of a data set, or where its files are"
            )
        written = json.dumps({"name": path.absolute().stem, "path": text})
    else:
        written = json.dumps(text)
    # Read as in a job, with the same checks and messages.
    return parse_job(f"name: x\ndataset: {written}\nk: 1\nclassifiers: mlp", source=f"data set {text}").dataset


def described_dataset(labels: Path, shape: str) -> DatasetSpec:
    """Describes a data set without images.

    Args:
        labels: File with the class names in label order: one a line, or a JSON list.
        shape: Channels, rows and columns of an image, such as ``3x224x224``.

    Raises:
        InputError: The file cannot be read, or the file or the shape is wrong.
    """
    sizes = re.fullmatch(r"(\d+)[x,](\d+)[x,](\d+)", shape.replace(" ", ""))
    if not sizes:
        raise InputError(f"'{shape}' is no shape; give channels, rows and columns, such as 3x224x224")
    try:
        content = labels.read_text("utf-8")
        names = json.loads(content) if content.lstrip().startswith("[") else content.splitlines()
    except OSError as error:
        raise InputError(
            f"cannot read '{labels}': {error.strerror}; give a file with the names of the classes"
        ) from error
    except ValueError as error:
        raise InputError(f"'{labels}' is neither lines of text nor a JSON list: {error}") from error
    names = [name.strip() if isinstance(name, str) else name for name in names]
    while names and names[-1] == "":
        names.pop()
    dataset = {"name": labels.stem, "shape": [int(size) for size in sizes.groups()], "class_names": names}
    text = json.dumps(dataset)
    return parse_job(f"name: x\ndataset: {text}\nk: 1\nclassifiers: mlp", source=str(labels)).dataset
