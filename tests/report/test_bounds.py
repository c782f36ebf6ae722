import csv

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sfi_ray.errors import StorageError
from sfi_ray.report.bounds import Curve, bounds_table, plot_bounds, write_bounds

KS = (1, 2, 5)
CURVES = (
    Curve("optimum", np.array([0.0, 2.0, 900.0])),
    Curve("as printed", np.array([0.0, 1.0, 3.0]), is_dashed=True),
    Curve("de found", np.array([-900.0, 0.5, 2.0]), is_found=True),
)


def test_the_table_has_a_row_for_each_k():
    console = Console(width=120)
    with console.capture() as capture:
        console.print(bounds_table(KS, CURVES))
    lines = [line.split() for line in capture.get().splitlines()]
    assert lines[-3:] == [
        ["1", "50.00", "(+0.000)", "50.00", "(+0.000)", "0.00", "(-900.000)"],
        ["2", "88.08", "(+2.000)", "73.11", "(+1.000)", "62.25", "(+0.500)"],
        ["5", "100.00", "(+900.000)", "95.26", "(+3.000)", "88.08", "(+2.000)"],
    ]


def test_files_are_written_where_they_are_wanted(tmp_path):
    table, plot = write_bounds(tmp_path / "new" / "name.v1", "Title", KS, CURVES)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [row["k"] for row in rows] == ["1", "2", "5"]
    assert float(rows[1]["de found: log-odds"]) == 0.5
    assert float(rows[0]["optimum: confidence"]) == 0.5
    assert (table.name, plot.name) == ("name.v1.csv", "name.v1.png")
    with Image.open(plot) as image:
        assert image.width > image.height > 500


def test_searches_are_points_and_theorems_lines():
    for axes in plot_bounds("Title", KS, CURVES).axes:
        styles = [line.get_linestyle() for line in axes.lines]
        assert styles == ["-", "--", "None"]
        assert axes.lines[2].get_marker() != axes.lines[0].get_marker()
    assert [list(line.get_ydata()) for line in axes.lines] == [list(curve.log_odds) for curve in CURVES]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"cannot write the table and the plot into '.*taken'"):
        write_bounds(tmp_path / "taken" / "name", "Title", KS, CURVES)
