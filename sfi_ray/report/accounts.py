"""Sums over a run's cells: evaluations and time, success by k, and the reasons of failures.

One pass reads the rows without their pixels. Each cell counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sfi_ray.report.scan import Source, batches_of

_KEYS = ("dataset", "classifier", "attack", "k", "background", "stop_reason")
_SUMS = ("cells", "fooled", "confidence", "evaluations", "verifications", "backward_passes", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Accounts:
    """Sums over the cells of a run.

    Attributes:
        spent: For each data set, classifier, attack, k, background and stop_reason, sorted: ``cells``, ``fooled``, and
            the sums of ``confidence`` (of finished cells), ``evaluations``, ``verifications``, ``backward_passes`` and
            ``seconds``.
        by_k: The same for each data set, classifier, attack and k, without failed cells.
        failures: The number of ``cells`` and the ``first`` of them for each classifier and error, the most frequent
            first.
    """

    spent: pa.Table
    by_k: pa.Table
    failures: pa.Table


def accounts_of(source: Source) -> Accounts:
    """Sums up the cells of a run."""
    spent, failures = [_empty(_KEYS, _SUMS)], [_empty(("classifier", "error"), ("cells", "first"))]
    counts = ("evaluations", "verifications", "backward_passes", "seconds")
    columns = (*_KEYS, "fooled", "confidence", *counts, "error", "cell_index")
    for batch in batches_of(source, columns, pc.scalar(True), batch_rows=1 << 15):
        one = pa.array([1] * batch.num_rows, pa.int64())
        values = {name: batch[name] for name in _KEYS} | {
            "cells": one,
            "fooled": pc.fill_null(batch["fooled"], False).cast(pa.int64()),
            "confidence": pc.if_else(
                pc.fill_null(pc.is_finite(batch["confidence"]), False), batch["confidence"].cast(pa.float64()), 0.0
            ),
            **{name: pc.fill_null(batch[name], 0) for name in counts},
        }
        spent.append(_sums(pa.table(values).cast(_empty(_KEYS, _SUMS).schema), _KEYS))
        failed = {"classifier": batch["classifier"], "error": batch["error"], "cells": one}
        failed_rows = pa.table({**failed, "first": batch["cell_index"]}).filter(pc.is_valid(batch["error"]))
        failures.append(failed_rows.cast(failures[0].schema))
    total = _sums(pa.concat_tables(spent), _KEYS).sort_by([(name, "ascending") for name in _KEYS])
    finished = total.filter(pc.not_equal(total["stop_reason"], "failed"))
    k_keys = _KEYS[:4]
    return Accounts(
        spent=total,
        by_k=_sums(finished, k_keys).sort_by([(name, "ascending") for name in k_keys]),
        failures=_failures(pa.concat_tables(failures)),
    )


def _sums(table: pa.Table, keys: tuple[str, ...]) -> pa.Table:
    # With threads, the last bits of the sums would depend on chance.
    summed = table.group_by(list(keys), use_threads=False).aggregate([(name, "sum") for name in _SUMS])
    return summed.select([*keys, *(f"{name}_sum" for name in _SUMS)]).rename_columns([*keys, *_SUMS])


def _failures(table: pa.Table) -> pa.Table:
    keys = ["classifier", "error"]
    grouped = table.group_by(keys, use_threads=False).aggregate([("cells", "sum"), ("first", "min")])
    named = grouped.select([*keys, "cells_sum", "first_min"]).rename_columns([*keys, "cells", "first"])
    return named.sort_by([("cells", "descending"), ("first", "ascending")])


def _empty(keys: tuple[str, ...], numbers: tuple[str, ...]) -> pa.Table:
    types = {name: pa.int64() if name == "k" else pa.string() for name in keys}
    types |= {name: pa.float64() if name in {"confidence", "seconds"} else pa.int64() for name in numbers}
    return pa.schema(list(types.items())).empty_table()
