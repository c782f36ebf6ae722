"""The paper's values beside those of a run: the same cells, and summaries that a slow reference gives too."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfi_ray.report.reproduction import (
    PaperValue,
    summary_table,
    values_of_rounds,
    values_of_run,
    write_reproduction,
)
from sfi_ray.report.runs import open_runs
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.rounds.record import AttackRecord, ClassOutcome, Counted, FinalRecord, RoundRecord, SplitRecord
from sfi_ray.store.folder import RunFolder


def test_means_of_replicates_stand_beside_the_papers(write_run: Any, make_findings: Any, tmp_path: Path) -> None:
    cells = [("airplane", 0.5), ("airplane", 0.75), ("bird", None), ("otter", 0.9)]
    rows = [
        {
            "dataset": "cifar10",
            "classifier": "mine",
            "target_class": number,
            "target_name": name,
            "replicate": place,
            "confidence": confidence,
            "background_confidence": None if confidence is None else 0.25,
        }
        for place, (name, confidence) in enumerate(cells)
        for number in (["airplane", "bird", "otter"].index(name),)
    ]
    folder = write_run(
        tmp_path / "run", make_findings(*rows), classifiers=[{"name": "mine", "test_accuracy": 0.7}], num_cells=4
    )
    (run,) = open_runs([str(folder)])
    # Table 3: 5-SFIs through VGG16; black, plane: 95 (0). Table 1: 80.
    paper = {value.quantity: value.paper for value in values_of_run(run, 3, "VGG16")}
    ours = {value.quantity: (value.series, value.place, value.ours) for value in values_of_run(run, 3, "VGG16")}
    assert ours == {
        "natural accuracy": ("natural images", "all", 0.7),
        "mean confidence": ("black", "airplane", 0.625),
        "bare background": ("black", "airplane", 0.25),
    }
    assert paper["natural accuracy"] == 0.8
    assert values_of_run(run, 4, "VGG16") == []
    assert values_of_run(run, 3) == []


def test_the_best_of_replicates_stands_beside_tables_14_and_15(
    write_run: Any, make_findings: Any, tmp_path: Path
) -> None:
    rows = [
        {"classifier": "mlp", "confidence": share, "replicate": place, "target_class": 0}
        for place, share in enumerate((0.5, 0.75))
    ]
    facts = [{"name": "mlp", "architecture": "mlp", "test_accuracy": 0.97}]
    (run,) = open_runs([str(write_run(tmp_path / "run", make_findings(*rows), classifiers=facts))])
    assert values_of_run(run, 14) == [
        PaperValue("natural images", "all", "natural accuracy", "mlp", 0.98, 0.97),
        PaperValue("black", "class 0", "highest confidence", "mlp", 0.69, 0.75),
    ]


def an_attack(fooling: int, *colours: str) -> AttackRecord:
    outcome = ClassOutcome(target_class=0, target_name="airplane", searched=4, failed=0, fooling=fooling, found=4)
    return AttackRecord(backgrounds=colours or ("black",), classes=(outcome,))


def test_rounds_stand_beside_tables_16_and_17() -> None:
    record = RoundRecord(
        round=1,
        fingerprint="f",
        trained_with={0: 3},
        natural=Counted(right=3, total=4),
        outliers=Counted(right=1, total=4),
        attack=an_attack(1),
        split=SplitRecord(wanted_train=1, wanted_held_out=1, train=1, held_out=1),
    )
    final = FinalRecord(round=4, attack=an_attack(4, "white"))
    trial = TrialResults("rounds", 5, [record], [final], {}, is_complete=False)
    accuracies = {value.place: (value.series, value.paper, value.ours) for value in values_of_rounds(trial, 16)}
    assert accuracies == {
        "combined": ("M1", 0.79, 0.5),
        "natural": ("M1", 0.77, 0.75),
        "defense": ("M1", 1.0, 0.25),
        "reattack": ("M1", 0.62, 0.25),
    }
    assert values_of_rounds(trial, 17) == [
        PaperValue("M1, black", "airplane", "re-attack", "VGG16", 0.63, 0.25),
        PaperValue("M4, white", "airplane", "re-attack", "VGG16", 1.0, 1.0),
    ]


def some_values(count: int = 12) -> list[PaperValue]:
    chance = np.random.default_rng(0)
    pairs = chance.random((count, 2)).tolist()
    return [PaperValue("black", f"class {n}", "mean confidence", "VGG16", *pair) for n, pair in enumerate(pairs)]


def test_a_summary_is_what_a_slow_reference_gives() -> None:
    values = some_values()
    (row,) = summary_table(values).rows
    paper, ours = np.array([value.paper for value in values]), np.array([value.ours for value in values])
    assert row[:5] == ["VGG16", "mean confidence", 12, pytest.approx(paper.mean()), pytest.approx(ours.mean())]
    assert row[5] == pytest.approx(np.corrcoef(paper, ours)[0, 1])
    farthest = values[int(np.argmax(abs(paper - ours)))]
    assert summary_table(values).notes[1].split(": ", 1)[1].startswith(f"black {farthest.place} ")


def test_a_correlation_that_does_not_exist_is_no_number() -> None:
    flat = [PaperValue("black", str(n), "mean confidence", "VGG16", 1.0, n / 4) for n in range(3)]
    assert summary_table(flat).rows[0][5] is None
    assert summary_table(flat[:1]).rows[0][5] is None


def test_what_is_written_holds_every_value(tmp_path: Path) -> None:
    values = some_values()
    assert write_reproduction(RunFolder(tmp_path), 3, values) == "reproduction/table_3.md"
    with (tmp_path / "reproduction/table_3.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["place"], float(row["paper"]), float(row["ours"])) for row in rows] == [
        (value.place, value.paper, value.ours) for value in values
    ]
    assert (tmp_path / "reproduction/table_3.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "reproduction/table_3.md").read_text()
    assert "![ours against the paper](table_3.png)" in text
    assert "arXiv:2012.03843" in text
