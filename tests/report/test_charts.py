from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from sfi_ray.report import confidence_matrices
from sfi_ray.report.charts import class_chart, heat_map, success_chart


def test_charts_are_pictures_with_the_same_bytes_every_time_whatever_the_names(make_findings: Any) -> None:
    rows = ({"target_class": n, "target_name": name, "classifier": "_$x"} for n, name in enumerate(("$", "a\n<b>")))
    (matrix,) = confidence_matrices(make_findings(*rows))
    by_k = [{"classifier": "_$x", "attack": "de", "k": k, "fooled": k, "cells": 5} for k in (1, 5)]
    for files in (heat_map(matrix), class_chart(matrix), success_chart("_$", by_k)):
        assert list(files) == [".png", ".svg"]
        assert Image.open(io.BytesIO(files[".png"])).format == "PNG"
        assert ElementTree.fromstring(files[".svg"]).tag.endswith("svg")
    assert heat_map(matrix) == heat_map(matrix)
