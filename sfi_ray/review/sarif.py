"""A scorecard as SARIF 2.1.0, which services such as GitHub code scanning show beside the code of a repository."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sfi_ray.job import ClassifierSpec
from sfi_ray.review.gate import Limit, failed_cells
from sfi_ray.review.scorecard import Scorecard
from sfi_ray.text import MOST_LINE, counted, printable


def sarif_json(card: Scorecard, limit: Limit | None, uri: str) -> str:
    """Writes a scorecard as SARIF: a rule for each k, and a result for each class and background that is fooled.

    A result belongs to the smallest k that fools. It is an error where it counts against a limit that does not hold, a
    note where its k is larger than the limit's, and otherwise a warning. Failed cells make the run an unsuccessful one.

    Args:
        card: The scorecard.
        limit: What the classifier may do at most; None sets no limit.
        uri: The file that every result points to, since SARIF needs a place; see `uri_of`.
    """
    run: dict[str, Any] = {
        "tool": {
            "driver": {
                "name": "sfi-ray audit",
                "version": importlib.metadata.version("sfi-ray"),
                "informationUri": "https://arxiv.org/abs/2012.03843",
                "rules": [_rule(k, card.grid.threshold) for k in card.grid.ks],
            }
        },
        "invocations": [{"executionSuccessful": failed_cells(card) is None}],
        "results": [
            _result(card, limit, uri, index, background)
            for index in range(len(card.classes))
            for background, k in card.classes[index].by_background.items()
            if k is not None
        ],
    }
    if failed := failed_cells(card):
        notice = {"level": "error", "message": {"text": _message(f"{failed}; try them again with --retry-failed")}}
        run["invocations"][0]["toolExecutionNotifications"] = [notice]
    schema = "https://json.schemastore.org/sarif-2.1.0.json"
    return json.dumps({"$schema": schema, "version": "2.1.0", "runs": [run]}, indent=2) + "\n"


def uri_of(classifier: ClassifierSpec, otherwise: str) -> str:
    """Returns where a classifier is: its code, its export or its weights.

    Args:
        classifier: The classifier.
        otherwise: Path or URI of the file that stands for a classifier without a file on this disk.

    Returns:
        A relative reference for a file in the current folder, a URI for any other one.
    """
    own_code = classifier.factory or classifier.predict
    if own_code is not None:
        stem = Path(*own_code.partition(":")[0].split("."))
        candidates = [stem.with_suffix(".py"), stem / "__init__.py"]
    else:
        candidates = [Path(name) for name in (classifier.export, classifier.onnx, classifier.weights) if name]
    file = next((place for place in candidates if place.is_file()), None)
    if file is None and "://" in otherwise:
        return otherwise
    whole, here = (file or Path(otherwise)).resolve(), Path.cwd()
    return quote(whole.relative_to(here).as_posix()) if whole.is_relative_to(here) else whole.as_uri()


def _rule(k: int, threshold: float) -> dict[str, Any]:
    pixels = counted(k, "altered pixel")
    return {
        "id": _rule_id(k),
        "name": "SparseFoolingImage",
        "shortDescription": {"text": f"Fooled by {pixels}"},
        "fullDescription": {
            "text": f"A single colour with {pixels} is labelled as an object, at {threshold:.0%} or more."
        },
        "help": {
            "text": "A sparse fooling image has one colour but for k pixels. People see no object in it. The scorecard "
            "shows the image. Training with such images as an outlier class, or a detector, may reject them."
        },
        "defaultConfiguration": {"level": "warning"},
    }


def _result(card: Scorecard, limit: Limit | None, uri: str, index: int, background: str) -> dict[str, Any]:
    found = card.classes[index]
    k = found.by_background[background]
    assert k is not None
    model, name = printable(card.model.name, MOST_LINE), printable(found.name, MOST_LINE)
    pixels = counted(k, "altered pixel")
    text = f"{model}: {printable(background)} with {pixels} is labelled as class {found.index} ({name})"
    # GitHub tells alerts of one rule and one place apart by this.
    identity = hashlib.sha256(json.dumps([card.model.name, background, found.index]).encode()).hexdigest()[:32]
    return {
        "ruleId": _rule_id(k),
        "ruleIndex": card.grid.ks.index(k),
        "level": _level(card, limit, k),
        "message": {"text": _message(f"{text}, at {card.grid.threshold:.0%} or more.")},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"primaryLocationLineHash": identity},
        "properties": {"model": model, "class": found.index, "background": printable(background), "k": k},
    }


def _level(card: Scorecard, limit: Limit | None, k: int) -> str:
    if limit is None:
        return "warning"
    if k > limit.k:
        return "note"
    return "error" if limit.excess(card.share(limit.k)) else "warning"


def _rule_id(k: int) -> str:
    return f"sparse-fooling-image-k{k}"


def _message(text: str) -> str:
    """Returns text in which nothing is a link or a placeholder of SARIF."""
    return re.sub(r"([\\\[\]])", r"\\\1", text).replace("{", "{{").replace("}", "}}")
