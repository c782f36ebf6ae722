from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from sfi_ray.report import (
    confidence_matrices,
    contact_sheet,
    matrix_table,
    matrix_to_csv,
    write_reports,
)
from sfi_ray.report import write as write_module


def reports(source: Any) -> dict[str, bytes]:
    written: dict[str, bytes] = {}
    names = write_reports(source, write=written.__setitem__)
    assert names == list(written)
    return written


@pytest.mark.parametrize("on_disk", [False, True])
def test_each_matrix_has_tables_and_a_figure(make_findings: Any, on_disk: bool, tmp_path: Path) -> None:
    table = make_findings({"k": 1}, {"k": 5, "confidence": 0.95}, {"k": 5, "replicate": 1})
    source = table
    if on_disk:
        pq.write_table(table.slice(0, 2), tmp_path / "a.parquet")
        pq.write_table(table.slice(2), tmp_path / "b.parquet")
        source = pads.dataset(tmp_path)
    written = reports(source)
    one, five = confidence_matrices(table)
    assert written == {
        "tables/cnn_k1.csv": matrix_to_csv(one).encode(),
        "tables/cnn_k1.md": matrix_table(one).to_markdown().encode(),
        "tables/cnn_k1.tex": matrix_table(one).to_latex().encode(),
        **{f"figures/cnn_k1{suffix}": content for suffix, content in contact_sheet(table, one).items()},
        "tables/cnn_k5.csv": matrix_to_csv(five).encode(),
        "tables/cnn_k5.md": matrix_table(five).to_markdown().encode(),
        "tables/cnn_k5.tex": matrix_table(five).to_latex().encode(),
        **{f"figures/cnn_k5{suffix}": content for suffix, content in contact_sheet(table, five).items()},
    }


def test_pixels_are_read_of_the_best_cells_only(make_grid: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def record(source: Any, cell_ids: Any) -> Any:
        table = fetch(source, cell_ids)
        fetched.append(table)
        return table

    fetch = write_module.fetch_images
    monkeypatch.setattr(write_module, "fetch_images", record)
    reports(make_grid({"black": [0], "white": [255]}, 300))
    (table,) = fetched
    assert table.num_rows == 100
    assert min(table["confidence"].to_pylist()) > 0.8


def test_a_cell_written_twice_is_drawn_once(make_findings: Any) -> None:
    rows = [{"cell_id": "a"}, {"cell_id": "a"}]
    assert reports(make_findings(*rows)) == reports(make_findings(rows[0]))


def test_where_nothing_finished_there_is_no_figure(make_findings: Any) -> None:
    assert list(reports(make_findings({"confidence": None}))) == [
        f"tables/cnn_k5.{kind}" for kind in ("csv", "md", "tex")
    ]


def test_nothing_writes_nothing(make_findings: Any, tmp_path: Path) -> None:
    assert reports(make_findings()) == {}
    assert reports(pads.dataset(tmp_path, format="parquet")) == {}


def test_pandas_is_not_needed(make_findings: Any, tmp_path: Path) -> None:
    pq.write_table(make_findings({}, {"confidence": None}), tmp_path / "part.parquet")
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'pandas': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import pyarrow.dataset as pads; from sfi_ray.report import write_reports\n"
        "print(*write_reports(pads.dataset(sys.argv[1]), write=lambda name, content: None))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["figures/cnn_k5.svg"], done.stderr


@pytest.mark.parametrize(
    "name", ["../../x", "/etc/passwd", "..", "", "a\\..\\b", "C:x", "a\0b", "n" * 500, ".hidden", "\u6c49"]
)
def test_no_name_leads_out_of_the_folder(make_findings: Any, name: str) -> None:
    written = reports(make_findings({"classifier": name}))
    assert len(written) == 5
    for path in written:
        assert re.fullmatch(r"(tables|figures)/[A-Za-z0-9_][A-Za-z0-9._-]{0,130}\.(csv|md|png|svg|tex)", path)
        assert ".." not in path
        assert "k5." in path


def test_no_report_overwrites_another(make_findings: Any) -> None:
    rows = [
        {"classifier": "a/b"},
        {"classifier": "a_b"},
        {"classifier": "A_B"},
        {"classifier": "vgg"},
        {"classifier": "vgg", "attack": "gradient"},
        {"classifier": "cnn"},
    ]
    names = list(reports(make_findings(*rows)))
    assert len({name.casefold() for name in names}) == 5 * len(rows)
    assert "tables/cnn_k5.csv" in names
    assert {"tables/mnist_vgg_evolution_k5.csv", "tables/mnist_vgg_gradient_k5.csv"} <= set(names)
