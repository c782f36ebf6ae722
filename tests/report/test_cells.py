from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sfi_ray.report.cells import Cells, cells_of
from sfi_ray.report.runs import open_runs
from sfi_ray.store.rebuild import rebuild_images


def image(cells: Cells, cell: int, size: int, channels: int) -> np.ndarray:
    """Paints a cell as the page does."""
    run = cells.columns["run"][cell]
    painted = np.empty((size, size, channels), np.uint8)
    painted[:] = cells.background_values[cells.columns["background"][cell]]
    for at in range(cells.pixels.starts[cell], cells.pixels.starts[cell + 1]):
        first = cells.pixels.first_values[run] + (at - cells.pixels.first_pixels[run]) * channels
        painted[cells.pixels.rows[at], cells.pixels.cols[at]] = cells.pixels.values[first : first + channels]
    return painted


def test_images_are_those_of_the_rows_also_of_runs_with_other_sizes(
    write_run: Any, many_findings: Any, make_findings: Any, tmp_path: Path
) -> None:
    colour = many_findings(5, 40, size=8)
    gray = make_findings(
        {"confidence": None},
        *({"pixels": [{"row": n, "col": 3 - n, "value": [n]}], "num_altered": 1} for n in range(3)),
        {"pixels": [], "num_altered": 0},
    )
    shape = {"input_shape": [3, 8, 8], "name": "colour"}
    folders = [
        write_run(tmp_path / "gray", gray),
        write_run(tmp_path / "colour", colour.slice(20), colour.slice(0, 20), **shape),
        write_run(tmp_path / "again", gray, name="again"),
    ]
    cells = cells_of(open_runs([str(folder) for folder in folders]))
    assert cells.total == len(cells.columns["run"]) == 50
    assert cells.columns["cell_index"].tolist() == [*range(5), *range(40), *range(5)]
    assert not cells.pixels.has_image[0]
    for first, table, size, channels in ((0, gray, 4, 1), (5, colour, 8, 3), (45, gray, 4, 1)):
        expected = rebuild_images(table)
        for row in range(table.num_rows):
            np.testing.assert_array_equal(image(cells, first + row, size, channels), expected[row])


def test_of_a_large_run_the_best_and_a_fair_sample_are_kept(write_run: Any, many_findings: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", many_findings(5, 4000, size=8), input_shape=[3, 8, 8])
    (run,) = open_runs([str(folder)])
    cells = cells_of([run], max_cells=500, max_pixels=600)
    kept = cells.columns["cell_index"]
    assert cells.total == 4000
    assert 450 < len(kept) < 700
    best = {int(name[8:], 16) for matrix in run.matrices for name in matrix.best_cell_id.ravel()}
    assert best <= set(kept.tolist())
    assert cells.pixels.starts[-1] <= 600
    assert {int(number) for number in kept[cells.pixels.has_image]} >= best
    np.testing.assert_array_equal(cells_of([run], max_cells=500, max_pixels=600).columns["cell_index"], kept)
