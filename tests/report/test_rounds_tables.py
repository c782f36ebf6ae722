"""Tables and figures of rounds whose record holds what somebody else wrote."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sfi_ray.report.rounds.curves import roc_curves
from sfi_ray.report.rounds.figures import accuracies
from sfi_ray.report.rounds.page import render_rounds_page
from sfi_ray.report.rounds.tables import (
    accuracies_csv,
    accuracies_table,
    detectors_csv,
    detectors_table,
    overview_tables,
    reattack_csv,
    reattack_table,
    seeds_table,
)
from sfi_ray.rounds.detection import SFI, Detection
from sfi_ray.rounds.experiment import TrialResults
from sfi_ray.rounds.record import AttackRecord, ClassOutcome, Counted, FinalRecord, RoundRecord, SplitRecord

EVIL = "\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}a|b [x](y) $\\frac{1\n# heading"
FORMULA = "=HYPERLINK(1)"


@pytest.fixture
def trial() -> TrialResults:
    names = (EVIL, FORMULA)
    outcomes = tuple(
        ClassOutcome(target_class=at, target_name=name, searched=1, failed=0, fooling=1, found=1)
        for at, name in enumerate(names)
    )
    attack = AttackRecord(backgrounds=(EVIL,), classes=outcomes, evaded=EVIL)
    record = RoundRecord(
        round=0,
        fingerprint="0" * 32,
        trained_with={},
        natural=Counted(right=1, total=2),
        outliers=Counted(right=0, total=0),
        attack=attack,
        split=SplitRecord(wanted_train=9, wanted_held_out=9, train=1, held_out=1),
    )
    curve = ((0.0, 0.0), (1.0, 1.0))
    found = Detection(
        detector=EVIL, kind=SFI, num_outliers=1, auroc=0.5, fpr_at_95_tpr=0.5, missed_at_5_fpr=0.5, curve=curve
    )
    final = FinalRecord(round=0, attack=attack)
    return TrialResults(EVIL, 1, [record], [final], {0: [found]}, is_complete=True)


def test_markdown_is_printable_and_keeps_its_columns(trial: TrialResults) -> None:
    tables = (accuracies_table(trial), reattack_table(trial), detectors_table(trial))
    text = "".join(table.to_markdown() for table in tables)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "\n# heading" not in text
    assert r"\[x\](y)" in text
    for line in text.split("\n"):
        if line.startswith("| M0 ("):
            assert line.replace(r"\|", "").count("|") in (4, 6)


def test_trials_that_differ_in_seeds_alone_have_means_with_their_spread(trial: TrialResults) -> None:
    def drew(name: str, right: int, **drawn: object) -> TrialResults:
        (record,) = trial.rounds
        natural = Counted(right=right, total=100)
        return replace(trial, name=name, rounds=[record.model_copy(update={"natural": natural})], drawn=drawn)

    one, two = drew("a", 90, **{"classifier.training.seed": 0}), drew("b", 96, **{"classifier.training.seed": 1})
    table = seeds_table([one, two])
    (first, final) = [[entry and entry.text for entry in row[1:]] for row in table.rows]
    assert first == [None, "93 ± 4", None, "100 ± 0"]
    assert final == [None, None, None, "100 ± 0"]
    assert overview_tables([one, two])[-1].title == table.title
    assert not seeds_table([one]).rows
    assert not seeds_table([one, drew("c", 90, seed=1, k=3)]).rows
    assert [row[0] for row in seeds_table([one, replace(two, finals=[])]).rows] == ["M0"]
    assert not seeds_table([trial, trial]).rows


def test_csv_is_printable_and_without_formulas(trial: TrialResults) -> None:
    for text in (accuracies_csv([trial]), reattack_csv([trial]), detectors_csv([trial])):
        assert all(line.isprintable() for line in text.split("\n"))
        assert len({len(row) for row in csv.reader(io.StringIO(text))}) == 1
    rows = list(csv.DictReader(io.StringIO(reattack_csv([trial]))))
    assert rows[1]["target_name"] == f"'{FORMULA}"


def test_names_are_drawn_as_text(trial: TrialResults) -> None:
    for files in (accuracies(trial), roc_curves(trial)):
        assert set(files) == {".png", ".svg"}


def test_a_page_shows_foreign_names_as_text(trial: TrialResults) -> None:
    experiment = SimpleNamespace(folder=SimpleNamespace(location="runs/<b>"), trials=lambda: {trial.name: trial})
    page = render_rounds_page(experiment, {trial.name: {"": accuracies(trial)}})  # type: ignore[arg-type]
    assert "\x1b" not in page
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in page
    assert "<b>" not in page
    assert "script-src" not in page
    assert "data:image/png;base64," in page
    assert "SFIs fool M0 in 100% of the cells" in page
