"""What a notebook shows of a run, and how its best cells are found."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from PIL import Image

from sfi_ray.attacks import failed
from sfi_ray.errors import InputError
from sfi_ray.store.notebook.overview import SUMMARY_COLUMNS, summary_table
from sfi_ray.store.run import Run
from tests.store.conftest import make_cell, make_finding
from tests.store.test_run import commit, folder  # noqa: F401 - the fixture

CONFIDENCES = (0.5, 0.999, 0.2, 0.93, 0.93, 0.4)


@pytest.fixture
def run(folder):  # noqa: F811
    findings = [make_finding(i, confidence=value, fooled=value > 0.9) for i, value in enumerate(CONFIDENCES)]
    findings.append(replace(make_finding(6, confidence=0.7), cell=make_cell(6, target_class=1, target_name="<b>one")))
    commit(folder, [*findings, failed(make_cell(8), "it broke")])
    return Run(folder.location)


def cells(table):
    return table["cell_index"].to_pylist()


def test_the_best_rows_come_first_and_failed_cells_never(run):
    assert cells(run.best()) == [1, 3, 4, 6, 0, 5, 2]
    assert cells(run.best(2)) == [1, 3]
    assert cells(run.best(0)) == []
    assert cells(run.best(filter=ds.field("cell_index") > 3)) == [4, 6, 5]
    assert run.best(1).schema == run.table().schema


def test_the_best_of_each_is_one_row_of_each_value(run):
    assert cells(run.best(each="target_class")) == [1, 3, 4, 0, 5, 2]
    assert cells(run.best(2, each="background")) == [1]


@pytest.mark.parametrize("wrong", [{"n": -1}, {"each": "confidnce"}])
def test_a_wrong_request_for_the_best_is_refused(run, wrong):
    with pytest.raises(InputError, match="best: n is at least 0"):
        run.best(**wrong)


def test_a_cell_is_named_by_its_index_or_its_id(run):
    table = run.table()
    for place, (index, name) in enumerate(zip(cells(table), table["cell_id"].to_pylist(), strict=True)):
        np.testing.assert_array_equal(run.image(index), run.images(table)[place])
        np.testing.assert_array_equal(run.image(name), run.image(index))


@pytest.mark.parametrize(
    ("cell", "message"),
    [(7, "no row of cell 7; its grid has cells 0 to 9"), (99, "no row of cell 99"), ("f00", "cell_id 'f00'")],
)
def test_a_cell_without_a_row_is_refused(run, cell, message):
    for look in (run.image, run.show):
        with pytest.raises(InputError, match=message):
            look(cell)


def pictures(html):
    """The images in HTML, each by its alternative text."""
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]*)"', html)
    return {alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found}


def test_one_cell_is_shown_large_with_its_pixels_in_whole_steps(run):
    gallery = run.show(3)
    ((text, shown),) = pictures(gallery._repr_html_()).items()
    assert shown.shape == (320, 320)
    np.testing.assert_array_equal(shown[::40, ::40], run.image(3)[:, :, 0])
    assert text.startswith("class 3, 93% \N{CHECK MARK}, mlp, black, k = 3, cell 3, the bare background: 12%")
    assert str(gallery) == text.replace("&lt;", "<")


def test_a_gallery_shows_the_best_of_each_class_or_what_is_asked_for(run):
    assert [picture.notes[2] for picture in run.show().pictures] == [f"k = 3, cell {i}" for i in (1, 3, 4, 0, 5, 2)]
    assert len(run.show(n=2).pictures) == 2
    assert [picture.notes[0] for picture in run.show([2, 8]).pictures] == ["20% \N{BALLOT X}", "failed: it broke"]
    assert len(run.show(run.best(4)).pictures) == 4
    assert repr(run.show([])) == "Gallery(0 images)"


def test_what_others_wrote_is_no_markup(run):
    assert "<b>one" not in run.show(6)._repr_html_().replace("<b>&lt;", "")
    assert "&lt;b&gt;one" in run.show(6)._repr_html_()


def test_a_run_shows_its_headline_a_table_and_its_best_images(run):
    html = run._repr_html_()
    assert "<b>a</b>: lost, 8 of 10 cells, 4 fooled, 1 failed" in html
    assert len(pictures(html)) == 6
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    texts = [re.findall(r">([^<>]+)</t[hd]>", row) for row in rows]
    assert texts == [
        ["classifier", "background", "k", "cells", "fooled", "failed", "mean confidence (%)", "highest (%)"],
        ["mlp", "black", "3", "8", "4", "1", "66", "99"],
    ]


def test_a_run_without_rows_shows_its_headline(folder):  # noqa: F811
    html = Run(folder.location)._repr_html_()
    assert "<b>a</b>: lost, 0 of 10 cells" in html
    assert "<img" not in html


def test_of_many_groups_the_first_are_shown_and_others_counted():
    ks = [9, 3, 3, 5, 7, 1]
    rows = {name: ["x"] * 6 for name in SUMMARY_COLUMNS} | {"k": ks, "cell_index": range(6)}
    table = summary_table(pa.table(rows | {"fooled": [True] * 6, "confidence": [0.5, 0.2, None, np.nan, 0.1, 0.3]}), 4)
    assert [list(row[2:]) for row in table.rows] == [
        [9, 1, 1, 0, 0.5, 0.5],
        [3, 2, 2, 0, 0.2, 0.2],
        [5, 1, 1, 0, None, None],
        [7, 1, 1, 0, 0.1, 0.1],
    ]
    assert table.notes == ["And 1 more group: run.to_pandas() or run.table() has all rows."]


def test_a_status_says_what_the_run_has(run):
    assert repr(run.status()) == "RunStatus(lost: 8 of 10 cells, 4 fooled, 1 failed, 721 evaluations)"
