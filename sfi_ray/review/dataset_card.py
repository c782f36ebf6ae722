"""The data set card of an export: what its images are, how they were made, and how to load them.

It is a `README.md` with the metadata of the Hugging Face Hub in front.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import yaml

from sfi_ray.store.facts import KFacts, RunFacts
from sfi_ray.tables import Column, ResultTable
from sfi_ray.text import counted, escape_markdown

COLUMNS = {
    "cell_id": "hash of the cell's settings; equal in every run that has the cell",
    "cell_index": "place of the cell in the run's grid",
    "dataset": "data set of the classifier",
    "classifier": "name of the classifier",
    "classifier_fingerprint": "hash of the classifier's weights, layers, normalisation and answers",
    "background": "colour of all pixels that are not altered",
    "target_class": "class that the search aimed at, from 0",
    "target_name": "its name",
    "k": "most pixels that the search could alter",
    "replicate": "number of the repetition of the cell, from 0",
    "attack": "kind of search",
    "fooled": "whether the confidence reached the threshold",
    "confidence": "the classifier's probability of the target class, in float32",
    "background_confidence": "the same for the bare background",
    "predicted_class": "class with the highest probability",
    "predicted_confidence": "its probability",
    "num_altered": "pixels that differ from the background",
}
"""Columns that are exported beside each image, with what they mean."""

_LOADING = {
    "png": 'load_dataset("imagefolder", data_dir="FOLDER")',
    "parquet": 'load_dataset("parquet", data_files={"test": "FOLDER/test.parquet"})',
}
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def dataset_card(facts: RunFacts, kind: str, num_images: int, *, fooled: bool) -> str:
    """Returns the card as Markdown.

    Args:
        facts: What is known of the run. Paths of files are not among what is told.
        kind: Format of the export.
        num_images: Number of images.
        fooled: Whether it holds only images that reached the threshold.
    """
    job = facts.job
    name = escape_markdown(job.name)
    front: dict[str, Any] = {
        "pretty_name": f"Sparse fooling images of {job.name}",
        "task_categories": ["image-classification"],
        "tags": ["adversarial-examples", "out-of-distribution", "sparse-fooling-images"],
        "size_categories": [next((text for most, text in _SIZES if num_images < most), "n>1M")],
    }
    if kind == "parquet":
        files = [{"split": "test", "path": "test.parquet"}]
        front["configs"] = [{"config_name": "default", "data_files": files}]
    channels, height, width = facts.input_shape
    kept = f", of which each reached a confidence of {job.verification.threshold:g}" if fooled else ""
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# Sparse fooling images of {name}",
        "",
        f"{counted(num_images, 'image')} of {height} x {width} pixels and {counted(channels, 'channel')}{kept}. Each "
        "is one single colour with a few altered pixels. A search chose these pixels to raise a classifier's "
        "confidence in the target class. The label is that class.",
        "",
        _table("How they were made", ("what", "value"), _origin(facts).items()),
        _table(
            "Classifiers", ("name", "architecture", "accuracy on natural images", "fingerprint"), _classifiers(facts)
        ),
        _table("Columns", ("column", "meaning"), COLUMNS.items()).rstrip(),
    ]
    if kind in _LOADING:
        lines += ["", "### Load", "", "```python", "from datasets import load_dataset", "", _LOADING[kind], "```"]
    lines += [
        "",
        "### Licence",
        "",
        "The images are generated and hold no natural image. Whoever publishes them names the licence: add `license` "
        "to the metadata at the top of this file.",
    ]
    return "\n".join(lines) + "\n"


def _origin(facts: RunFacts) -> dict[str, str]:
    job, k = facts.job, facts.job.k
    # Without the location of an earlier run, which is nobody else's business.
    hidden = ("kind", "transfer_from")
    settings = {key: value for key, value in job.attack.items() if key not in hidden and value is not None}
    if isinstance(k, KFacts):
        pixels = f"from {k.low} to {k.high}, drawn for each cell"
    else:
        pixels = ", ".join(map(str, k if isinstance(k, tuple) else (k,)))
    return {
        "data set of the classifiers": facts.dataset,
        "backgrounds": ", ".join(job.backgrounds),
        "k, most altered pixels": pixels,
        "images of a cell": str(job.replicates),
        "search": str(job.attack.get("kind")),
        "its settings": json.dumps(settings, ensure_ascii=False, default=str),
        "threshold of confidence": f"{job.verification.threshold:g}",
        "seed": str(job.seed),
        "versions": ", ".join(f"{package} {version}" for package, version in facts.versions.items()),
    }


def _classifiers(facts: RunFacts) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            one.architecture or "",
            "" if one.test_accuracy is None else f"{one.test_accuracy:.1%}",
            one.fingerprint,
        )
        for one in facts.classifiers
    ]


def _table(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    columns = [Column(heading, heading, is_text=True) for heading in headings]
    return ResultTable(title, columns, [list(row) for row in rows]).to_markdown()
