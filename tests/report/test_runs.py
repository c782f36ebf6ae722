from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sfi_ray.errors import InputError
from sfi_ray.report.runs import open_runs


def test_a_damaged_part_is_named_and_nothing_else_is_lost(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", *(make_findings({"cell_id": f"{n:032x}", "cell_index": n}) for n in range(3)))
    part = folder / "results" / "part-000000000001.parquet"
    whole = part.read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:4] + b"\xff" * 300 + whole[304:]):
        part.write_bytes(content)
        (run,) = open_runs([str(folder)])
        assert list(run.damaged) == ["results/part-000000000001.parquet"]
        assert "part-000000000001.parquet" in run.losses[0]
        assert run.num_finished == 2


@pytest.mark.parametrize("parts", [0, 1])
def test_an_unfinished_run_says_so(write_run: Any, make_findings: Any, tmp_path: Path, parts: int) -> None:
    folder = write_run(tmp_path / "run", *[make_findings({}, {})][:parts], num_cells=5)
    (run,) = open_runs([str(folder)])
    assert run.losses == []
    assert (run.num_finished, run.state) == (2 * parts, "lost")
    assert run.notes == [
        "run is unfinished: 2 of 5 cells have a row (lost)"
        if parts
        else "run has no rows yet: none of its 5 cells is finished (lost)"
    ]


def test_runs_of_one_name_are_told_apart_and_one_run_is_taken_once(
    write_run: Any, make_findings: Any, tmp_path: Path
) -> None:
    one, other = (write_run(tmp_path / name / "run", make_findings({})) for name in ("a", "b"))
    assert [run.label for run in open_runs([str(one), str(other)])] == [f"run ({one})", f"run ({other})"]
    with pytest.raises(InputError, match="is given twice"):
        open_runs([str(one), f"file://{one}"])


@pytest.mark.parametrize(
    ("record", "message"),
    [(None, "holds no run"), ("[1, 2", "is not the record"), ("job: {name: x}", "job.backgrounds: Field required")],
)
def test_a_folder_without_a_sound_record_is_refused(tmp_path: Path, record: str | None, message: str) -> None:
    if record is not None:
        (tmp_path / "job.yaml").write_text(record)
    with pytest.raises(InputError, match=message):
        open_runs([str(tmp_path)])


def test_natural_images_that_cannot_be_read_are_left_out_by_name(
    write_run: Any, make_findings: Any, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "run", make_findings({}), images=[json.loads("{}")])
    (folder / "images.parquet").write_bytes(b"PAR1")
    (run,) = open_runs([str(folder)])
    assert run.natural is None
    assert "images.parquet" in run.losses[0]
