"""A factory of findings, so that a test names only what it is about."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from sfi_ray.store.schema import FINDINGS

Make = Callable[..., pa.Table]


def make_findings(*rows: dict[str, Any]) -> pa.Table:
    """Fills in what a row does not say; `confidence=None` makes it a failed one."""
    findings = []
    for index, row in enumerate(rows):
        confidence = row.get("confidence", 0.5)
        defaults = {
            "run": "r",
            "cell_id": f"{index:032x}",
            "cell_index": index,
            "dataset": "mnist",
            "classifier": "cnn",
            "classifier_fingerprint": "f",
            "background": "black",
            "background_value": [0],
            "target_class": 0,
            "target_name": f"class {row.get('target_class', 0)}",
            "k": 5,
            "replicate": 0,
            "seed": 1,
            "attack": "evolution",
            "attack_settings": "{}",
            "fooled": confidence is not None and confidence >= 0.9,
            "confidence": 0.5,
            "background_confidence": None if confidence is None else 0.0,
            "pixels": None if confidence is None else [],
            "height": 4,
            "width": 4,
            "channels": 1,
            "stop_reason": "failed" if confidence is None else "fooled",
            "error": "it broke" if confidence is None else None,
        }
        findings.append({**dict.fromkeys(FINDINGS.names), **defaults, **row})
    return pa.Table.from_pylist(findings, schema=FINDINGS)


def make_grid(backgrounds: dict[str, list[int]], num_classes: int, **common: Any) -> pa.Table:
    """Makes one finding for each background and class, with confidences that fall by class."""
    places = itertools.product(backgrounds.items(), range(num_classes))
    return make_findings(
        *(
            {
                "background": name,
                "background_value": value,
                "target_class": target_class,
                "channels": len(value),
                "confidence": 1 - target_class / num_classes,
                **common,
            }
            for (name, value), target_class in places
        )
    )


@pytest.fixture(name="make_findings")
def _make_findings() -> Make:
    return make_findings


@pytest.fixture(name="make_grid")
def _make_grid() -> Make:
    return make_grid
