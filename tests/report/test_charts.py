from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from sfi_ray.report import confidence_matrices
from sfi_ray.report.sheets.charts import class_chart, heat_map, success_chart
from sfi_ray.report.sheets.feature_map import feature_map
from sfi_ray.review.feature_space import FeatureMap


def test_charts_are_pictures_with_the_same_bytes_every_time_whatever_the_names(make_findings: Any) -> None:
    rows = ({"target_class": n, "target_name": name, "classifier": "_$x"} for n, name in enumerate(("$", "a\n<b>")))
    (matrix,) = confidence_matrices(make_findings(*rows))
    by_k = [{"classifier": "_$x", "attack": "de", "k": k, "fooled": k, "cells": 5} for k in (1, 5)]
    for files in (heat_map(matrix), class_chart(matrix), success_chart("_$", by_k)):
        assert list(files) == [".png", ".svg"]
        assert Image.open(io.BytesIO(files[".png"])).format == "PNG"
        assert ElementTree.fromstring(files[".svg"]).tag.endswith("svg")
    assert heat_map(matrix) == heat_map(matrix)


@pytest.mark.parametrize("num_classes", [2, 10, 20, 30])
def test_a_map_of_features_is_drawn_for_few_classes_and_for_many(num_classes: int) -> None:
    random = np.random.default_rng(0)
    classes = np.arange(60) % num_classes
    shown = FeatureMap(
        title="$_x",
        class_names=("_$", *(f"class {number}" for number in range(1, num_classes))),
        natural=random.normal(size=(60, 2)),
        natural_classes=classes,
        sfis=random.normal(size=(60, 2)),
        sfi_classes=classes,
        colours=np.zeros((2, 2)),
        colour_values=((0,), (255,)),
        colour_names=("black", "white"),
        explained=(0.5, 0.25),
    )
    files = feature_map(shown)
    assert Image.open(io.BytesIO(files[".png"])).format == "PNG"
    assert ElementTree.fromstring(files[".svg"]).tag.endswith("svg")
    assert feature_map(shown) == files
