import math

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_ray.attacks import failed
from sfi_ray.errors import StorageError
from sfi_ray.store.folder import RunFolder
from sfi_ray.store.parts import (
    Outcome,
    PartWriter,
    committed_outcomes,
    count_rows,
    drop_failed,
    drop_repeated,
    each_cell_once,
    open_dataset,
    part_prefix,
)
from sfi_ray.store.schema import CIRCUMSTANCES, FINDINGS, findings_table
from sfi_ray.types import Background, Cell, Finding, Pixel, StopReason, TracePoint
from tests.store.conftest import PROVENANCE, make_cell, make_finding

BYTES = st.integers(0, 255)
PROBABILITIES = st.floats(0, 1, width=32)
INDICES = st.integers(0, 2**31 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


@st.composite
def cells(draw):
    channels = draw(st.sampled_from([1, 3]))
    return Cell(
        index=draw(st.integers(0, 2**40)),
        cell_id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        classifier=draw(TEXT),
        background=Background(draw(TEXT), tuple(draw(st.lists(BYTES, min_size=channels, max_size=channels)))),
        target_class=draw(INDICES),
        target_name=draw(TEXT),
        k=draw(INDICES),
        replicate=draw(INDICES),
        seed=draw(st.integers(0, 2**63 - 1)),
    )


@st.composite
def findings(draw):
    cell = draw(cells())
    if draw(st.booleans()):
        return failed(cell, draw(TEXT))
    channels = len(cell.background.value)
    value = st.lists(BYTES, min_size=channels, max_size=channels).map(tuple)
    return Finding(
        cell=cell,
        fooled=draw(st.booleans()),
        confidence=draw(PROBABILITIES),
        background_confidence=draw(PROBABILITIES),
        predicted_class=draw(INDICES),
        predicted_confidence=draw(PROBABILITIES),
        pixels=tuple(draw(st.lists(st.builds(Pixel, INDICES, INDICES, value), max_size=4))),
        evaluations=draw(st.integers(0, 2**60)),
        verifications=draw(st.integers(0, 2**60)),
        backward_passes=draw(st.integers(0, 2**60)),
        generations=draw(st.integers(0, 2**60)),
        stop_reason=draw(st.sampled_from([reason for reason in StopReason if reason != StopReason.FAILED])),
        trace=tuple(draw(st.lists(st.builds(TracePoint, st.integers(0, 2**60), PROBABILITIES), max_size=4))),
        seconds=draw(st.floats(0, 1e6)),
    )


def finding_of(row):
    """What a row says, read back column by column."""
    cell = Cell(
        index=row["cell_index"],
        background=Background(row["background"], tuple(row["background_value"])),
        **{
            name: row[name]
            for name in ("cell_id", "classifier", "target_class", "target_name", "k", "replicate", "seed")
        },
    )
    return Finding(
        cell=cell,
        pixels=tuple(Pixel(p["row"], p["col"], tuple(p["value"])) for p in row["pixels"]),
        trace=tuple(TracePoint(p["evaluations"], p["confidence"]) for p in row["trace"]),
        stop_reason=StopReason(row["stop_reason"]),
        **{
            name: row[name]
            for name in (
                "fooled",
                "confidence",
                "background_confidence",
                "predicted_class",
                "predicted_confidence",
                "evaluations",
                "verifications",
                "backward_passes",
                "generations",
                "seconds",
                "error",
            )
        },
    )


def commit(folder, start, stop, *batches):
    writer = PartWriter(folder, start, stop)
    for batch in batches:
        writer.commit(batch, PROVENANCE)


def part_names(folder):
    return [info.base_name for info in folder.list("results")]


@settings(deadline=None)
@given(st.lists(findings(), max_size=4))
def test_rows_say_what_was_found(some):
    table = findings_table(some, PROVENANCE)
    assert table.schema == FINDINGS
    assert [finding_of(row) for row in table.to_pylist()] == some
    for row in table.to_pylist():
        assert {name: row[name] for name in ("run", "dataset", "attack", "device", "height")} == {
            "run": "my run",
            "dataset": "digits",
            "attack": "de",
            "device": "cpu (x86_64)",
            "height": 8,
        }


@settings(deadline=None, max_examples=25)
@given(some=st.lists(findings(), min_size=1, max_size=4), place=st.uuids())
def test_rows_survive_being_written(some, place):
    folder = RunFolder(f"memory://{place}/run")
    commit(folder, 0, 10, some[:1], some[1:])
    rows = open_dataset(folder).to_table().to_pylist()
    assert [finding_of(row) for row in rows] == some
    folder.delete("")


def test_the_columns_are_those_of_the_architecture():
    expected = """
        run cell_id cell_index dataset classifier classifier_fingerprint background background_value target_class
        target_name k replicate seed attack attack_settings fooled confidence background_confidence predicted_class
        predicted_confidence pixels num_altered image image_index image_confidence feature_distance
        feature_inner_product height width channels evaluations verifications backward_passes generations stop_reason
        trace seconds device runtime versions error
    """
    assert " ".join(FINDINGS.names) == " ".join(expected.split())
    assert set(CIRCUMSTANCES) < set(FINDINGS.names)


def test_nan_is_kept_and_is_not_null(folder):
    commit(folder, 0, 1, [make_finding(0, predicted_confidence=math.nan)])
    (value,) = open_dataset(folder).to_table()["predicted_confidence"]
    assert value.is_valid
    assert math.isnan(value.as_py())


def test_each_commit_is_a_file_of_its_own_named_after_the_shard(folder):
    commit(folder, 20, 30, [make_finding(20)], [make_finding(21), make_finding(22)])
    commit(folder, 20, 30, [make_finding(23)])
    names = part_names(folder)
    assert len(names) == 3
    assert all(name.startswith("part-000000000020-000000000030-") for name in names)
    assert all(pq.read_schema(info.path) == FINDINGS for info in folder.list("results"))


def test_a_failed_commit_leaves_the_writer_usable(folder, monkeypatch):
    writer = PartWriter(folder, 0, 9)
    monkeypatch.setattr(RunFolder, "_write_through", lambda *_arguments: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(StorageError, match="free some space"):
        writer.commit([make_finding(0)], PROVENANCE)
    assert part_names(folder) == []
    monkeypatch.undo()
    writer.commit([make_finding(0)], PROVENANCE)
    assert open_dataset(folder).count_rows() == 1


@pytest.fixture(params=["run", "with 'quotes' and ünicode", "k=5/.x/_y"])
def written(request, tmp_path):
    """Two shards in three files, one row failed."""
    folder = RunFolder(tmp_path / request.param)
    commit(folder, 0, 5, [make_finding(0), make_finding(1, fooled=False, confidence=0.25)], [make_finding(2)])
    commit(folder, 5, 10, [failed(make_cell(5), "it broke"), make_finding(6)])
    return folder


def glob_of(folder):
    return f"{folder.location}/results/*.parquet"


def test_pyarrow_reads_the_files_alone(written):
    table = ds.dataset(f"{written.location}/results").to_table()
    assert table.schema == FINDINGS
    assert sorted(table["cell_index"].to_pylist()) == [0, 1, 2, 5, 6]


def test_pandas_reads_the_files_alone(written):
    frame = pd.concat(pd.read_parquet(info.path) for info in written.list("results"))
    assert sorted(frame.cell_index) == [0, 1, 2, 5, 6]
    assert frame.confidence.isna().sum() == 1
    assert frame.fooled.sum() == 3
    pixels = frame.set_index("cell_index").pixels[0]
    assert [(p["row"], p["col"], p["value"].tolist()) for p in pixels] == [(0, 7, [255]), (0, 3, [1])]


def test_duckdb_reads_the_files_alone(written):
    path = glob_of(written).replace("'", "''")
    rows = duckdb.sql(
        f"select cell_index, confidence, len(pixels), pixels[1].value[1] from '{path}' order by cell_index"
    ).fetchall()
    assert [row[0] for row in rows] == [0, 1, 2, 5, 6]
    assert rows[1] == (1, 0.25, 2, 255)
    assert rows[3] == (5, None, 0, None)


def test_a_data_set_without_rows_is_empty(folder):
    assert open_dataset(folder).to_table().num_rows == 0
    assert open_dataset(folder).schema == FINDINGS
    assert drop_failed(folder) == 0


def test_committed_outcomes_are_those_of_the_shard(written):
    assert committed_outcomes(written, 0, 5) == {
        0: Outcome(fooled=True, failed=False),
        1: Outcome(fooled=False, failed=False),
        2: Outcome(fooled=True, failed=False),
    }
    assert committed_outcomes(written, 5, 10) == {
        5: Outcome(fooled=False, failed=True),
        6: Outcome(fooled=True, failed=False),
    }
    assert committed_outcomes(written, 0, 10) == {}
    assert committed_outcomes(written, 0, 50) == {}


def test_shards_of_a_million_million_cells_sort_by_their_start():
    starts = [0, 9, 10, 10**6, 10**11]
    assert sorted(part_prefix(start, start + 5) for start in starts) == [part_prefix(s, s + 5) for s in starts]
    assert not part_prefix(1, 10).startswith(part_prefix(1, 1))


def test_dropping_failed_rows_keeps_all_others(written):
    before = open_dataset(written).to_table(filter=ds.field("stop_reason") != "failed")
    commit(written, 10, 12, [failed(make_cell(10), "a"), failed(make_cell(11), "b")])
    assert drop_failed(written) == 3
    assert open_dataset(written).to_table() == before
    assert len(part_names(written)) == 3, "a file without rows is removed"
    assert all(pq.read_schema(info.path) == FINDINGS for info in written.list("results"))
    assert drop_failed(written) == 0
    assert committed_outcomes(written, 5, 10) == {6: Outcome(fooled=True, failed=False)}


@pytest.mark.parametrize("content", [b"", b"PAR1", b"garbage" * 100, None], ids=["empty", "PAR1", "garbage", "half"])
def test_a_broken_part_file_is_named_with_the_mend(written, content):
    if content is None:
        whole = written.read(f"results/{part_names(written)[0]}")
        content = whole[: len(whole) // 2]
    broken = "part-000000000000-000000000005-broken.parquet"
    written.write(f"results/{broken}", content)
    for read in (drop_failed, lambda folder: committed_outcomes(folder, 0, 5)):
        with pytest.raises(StorageError) as caught:
            read(written)
        assert "move the broken part file away and launch again: its cells will be searched again" in str(caught.value)
        assert broken in str(caught.value)
    written.delete(f"results/{broken}")
    assert open_dataset(written).count_rows() == 5


def test_files_of_the_users_own_are_not_read(written):
    pq.write_table(pa.table({"mine": [1]}), f"{written.location}/results/summary.parquet")
    written.write("results/notes.txt", b"mine")
    written.write("results/.part-0-5.parquet.1.tmp", b"half of one")
    assert open_dataset(written).count_rows() == 5
    assert drop_failed(written) == 1
    assert written.exists("results/summary.parquet")


def test_further_rows_of_a_cell_leave_the_files_and_the_row_that_counts_stays(folder):
    PartWriter(folder, 0, 10).commit([make_finding(i) for i in range(6)], PROVENANCE)
    failed = [make_finding(i, fooled=False, stop_reason=StopReason.FAILED, error="lost") for i in (2, 7)]
    PartWriter(folder, 0, 5).commit(failed, PROVENANCE)
    PartWriter(folder, 0, 10).commit([make_finding(i) for i in (0, 5, 7, 8)], PROVENANCE)
    PartWriter(folder, 3, 5).commit([make_finding(3)], PROVENANCE)
    expected = each_cell_once(open_dataset(folder).to_table())
    assert count_rows(folder) == 13
    assert drop_repeated(folder) == 5
    rows = open_dataset(folder).to_table()
    assert rows.num_rows == count_rows(folder) == 8
    assert each_cell_once(rows).drop_columns(["stop_reason"]).equals(expected.drop_columns(["stop_reason"]))
    assert rows["stop_reason"].to_pylist() == ["fooled"] * 8
    before = part_names(folder)
    assert drop_repeated(folder) == 0
    assert part_names(folder) == before
