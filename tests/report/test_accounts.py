from __future__ import annotations

from typing import Any

from sfi_ray.report.accounts import accounts_of


def test_sums_are_over_cells_and_each_cell_counts_once(make_findings: Any) -> None:
    spent = {"evaluations": 10, "verifications": 2, "backward_passes": 3, "seconds": 0.5}
    table = make_findings(
        {"confidence": 0.95, **spent},
        {"confidence": 0.25, "stop_reason": "budget", **spent},
        {"confidence": 0.75, "background": "white", "stop_reason": "budget", **spent},
        {"confidence": 0.95, "k": 1, **spent},
        {"confidence": None, "evaluations": 7, "error": "it broke"},
        {"confidence": None, "error": "it broke"},
        {"confidence": None, "error": "out of paint"},
        {"cell_id": f"{0:032x}", "confidence": 0.95, **spent},
    )
    accounts = accounts_of(table)
    names = ("k", "background", "stop_reason", "cells", "fooled", "confidence", "evaluations", "seconds")
    assert [tuple(row[name] for name in names) for row in accounts.spent.to_pylist()] == [
        (1, "black", "fooled", 1, 1, 0.949999988079071, 10, 0.5),
        (5, "black", "budget", 1, 0, 0.25, 10, 0.5),
        (5, "black", "failed", 3, 0, 0.0, 7, 0.0),
        (5, "black", "fooled", 1, 1, 0.949999988079071, 10, 0.5),
        (5, "white", "budget", 1, 0, 0.75, 10, 0.5),
    ]
    assert [row["verifications"] for row in accounts.spent.to_pylist()] == [2, 2, 0, 2, 2]
    assert [(row["k"], row["cells"], row["fooled"]) for row in accounts.by_k.to_pylist()] == [(1, 1, 1), (5, 3, 1)]
    failures = [(row["error"], row["cells"], row["first"]) for row in accounts.failures.to_pylist()]
    assert failures == [("it broke", 2, 4), ("out of paint", 1, 6)]


def test_an_empty_run_has_empty_accounts(make_findings: Any) -> None:
    accounts = accounts_of(make_findings())
    assert (accounts.spent.num_rows, accounts.by_k.num_rows, accounts.failures.num_rows) == (0, 0, 0)
