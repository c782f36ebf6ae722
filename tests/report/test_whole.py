from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from sfi_ray.report import write_report
from sfi_ray.report.runs import open_runs

EVIL = "</script><img src=x onerror=alert(1)>"


def test_one_run_gets_page_tables_and_charts_in_its_folder(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    table = make_findings({}, {"confidence": None, "target_class": 1})
    folder = write_run(tmp_path / "run", table)
    report = write_report([str(folder)])
    assert report.location == f"{folder}/report/index.html"
    assert report.losses == report.notes == ()
    tables = {"cnn_k5", "summary", "success_by_k", "spending", "failures", "best_mnist_evolution_k5"}
    written = {str(path.relative_to(folder / "report")) for path in (folder / "report").rglob("*.*")}
    assert written == {
        "index.html",
        *(f"figures/cnn_k5.{kind}" for kind in ("png", "svg")),
        *(f"tables/{name}.{kind}" for name in tables for kind in ("csv", "md", "tex")),
        *(f"figures/{name}.{kind}" for name in ("cnn_k5_confidence", "cnn_k5_classes") for kind in ("png", "svg")),
        *(f"figures/success_by_k.{kind}" for kind in ("png", "svg")),
    }
    assert "it broke" in (folder / "report/tables/failures.csv").read_text()


def test_runs_with_other_classes_and_sizes_stand_side_by_side(
    write_run: Any, many_findings: Any, make_findings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = write_run(tmp_path / "one", make_findings({}), name="one")
    two = write_run(
        tmp_path / "two", many_findings(3, 9, size=8), name="two", input_shape=[3, 8, 8], class_names=["a", "b", "c"]
    )
    report = write_report([str(one), str(two)], charts=False)
    assert report.location == "report/index.html"
    page = Path("report/index.html").read_text()
    assert "two has other classes and images of another size than one; no table mixes them" in page
    assert {path.name for path in Path("report").iterdir() if path.is_dir()} == {"one", "two", "tables"}
    assert Path("report/two/tables/network_0_k5.csv").is_file()


@pytest.mark.parametrize("rows", [[], [{"confidence": None}]])
def test_a_run_without_findings_has_a_page_that_says_so(
    write_run: Any, make_findings: Any, tmp_path: Path, rows: list[Any]
) -> None:
    folder = write_run(tmp_path / "run", make_findings(*rows), num_cells=3)
    report = write_report([str(folder)])
    assert report.losses == ()
    assert len(report.notes) == 1
    assert report.notes[0] in Path(report.location).read_text()


def test_a_page_asks_no_network_and_reads_no_name_as_markup(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    row = {"target_name": EVIL, "classifier": EVIL, "background": EVIL, "attack": EVIL}
    folder = write_run(tmp_path / "run", make_findings(row, {**row, "confidence": None, "error": EVIL}), name=EVIL)
    page = Path(write_report([str(folder)], str(tmp_path / "out"), charts=False).location).read_text()
    assert EVIL not in page
    assert open_runs([str(folder)])[0].label == EVIL
    assert len(re.findall(r"</script", page, flags=re.IGNORECASE)) == len(re.findall(r"<script[ >]", page)) == 6
    loaded = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=|@import", page)
    assert loaded == []
    assert "default-src 'none'" in page
