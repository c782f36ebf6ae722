from __future__ import annotations

from pathlib import Path
from typing import Any

from sfi_ray.report.best import best_tables
from sfi_ray.report.runs import open_runs


def test_an_entry_holds_the_best_of_each_background_and_the_paper_stands_below(
    write_run: Any, make_findings: Any, tmp_path: Path
) -> None:
    rows = [
        {"classifier": name, "background": background, "confidence": confidence, "target_class": number, "replicate": n}
        for name in ("mlp", "mine")
        for background, most in (("black", 0.5), ("gray", 0.875))
        for number in (0, 1)
        for n, confidence in enumerate((most - number / 8, 0.1))
    ]
    classifiers = [
        {"name": "mlp", "architecture": "mlp", "test_accuracy": 0.979, "test_confidence": 0.8},
        {"name": "mine", "architecture": None},
    ]
    folder = write_run(tmp_path / "run", make_findings(*rows, {"classifier": "mlp", "k": 1}), classifiers=classifiers)
    (one, _), (_, five) = sorted(best_tables(open_runs([str(folder)])[0]).items())
    assert one == "best_mnist_evolution_k1"
    assert tuple(column.title for column in five.columns) == (
        "classifier",
        "accuracy",
        "natural confidence",
        "class 0",
        "class 1",
    )
    texts = [[entry.text for entry in row] for row in five.rows]
    assert texts == [
        ["mine", "-", "-", "50/87", "37/75"],
        ["mlp", "97", "80", "50/87", "37/75"],
        ["mlp, paper's Table 14", "98", "99", "69/99", "100/99"],
    ]
    assert [[entry.is_bold for entry in row[3:]] for row in five.rows[:2]] == [[False, False], [True, False]]
