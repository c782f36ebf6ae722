import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sfi_ray.errors import StorageError
from sfi_ray.store.bounds import RowBounds
from sfi_ray.store.part_check import PartCheck
from sfi_ray.store.parts import PartWriter, list_parts
from sfi_ray.store.schema import FINDINGS, findings_table
from tests.store.conftest import PROVENANCE, make_finding

BOUNDS = RowBounds(most_rows=10, num_cells=10, input_shape=(1, 8, 8))


def write(folder, table, name="part-000000000000-000000000010-odd-000000.parquet", **options):
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", **options)
    folder.write(f"results/{name}", sink.getvalue())
    return len(sink.getvalue())


def rows(number=1, **changes):
    content = findings_table([make_finding(1)], PROVENANCE).to_pylist()
    content[0].update(changes)
    return pa.Table.from_pylist(content, schema=FINDINGS).take(pa.array([0] * number))


def faults(folder, columns=None, bounds=BOUNDS, **options):
    found = {}
    PartCheck(folder, bounds, **options).sound(list_parts(folder), columns, found.__setitem__)
    return list(found.values())


def test_sound_parts_come_back_in_their_order(folder):
    writer = PartWriter(folder, 0, 10)
    for index in range(9):
        writer.commit([make_finding(index)], PROVENANCE)
    infos = list_parts(folder)
    assert PartCheck(folder, BOUNDS).sound(infos) == infos
    assert PartCheck(folder).sound(infos) == infos
    assert PartCheck(folder, BOUNDS).sound([]) == []


def test_all_broken_parts_are_named_at_once_and_many_are_counted(folder):
    writer = PartWriter(folder, 0, 10)
    for index in range(8):
        writer.commit([make_finding(index)], PROVENANCE)
    infos = list_parts(folder)
    for info in infos[1:]:
        folder.write(f"results/{info.base_name}", b"PAR1")
    with pytest.raises(StorageError) as caught:
        PartCheck(folder).sound(list_parts(folder))
    message = str(caught.value)
    assert infos[0].base_name not in message
    assert all(info.base_name in message for info in infos[1:6])
    assert "and 2 more; move these 7 broken part files away and launch again: their cells" in message
    assert "\n" not in message
    heard = []
    (left,) = PartCheck(folder).sound(list_parts(folder), None, lambda name, _: heard.append(name))
    assert left.base_name == infos[0].base_name
    assert heard == [f"results/{info.base_name}" for info in infos[1:]]


def test_what_a_footer_claims_is_held_against_the_record_before_a_row_is_read(folder):
    size = write(folder, rows(5_000_000))
    assert size < 1 << 21
    assert faults(folder) == ["it claims 5,000,000 rows, but the run has at most 10"]
    write(folder, rows(pixels=[{"row": 0, "col": 0, "value": [1]}] * 100_000))
    assert "it claims 100,000 values" in faults(folder)[0]
    write(folder, rows(trace=[{"evaluations": 1, "confidence": 0.5}] * 100_000))
    assert "bytes of trace" in faults(folder)[0]
    write(folder, rows(error="x" * 50_000_000))
    assert "bytes of error" in faults(folder)[0]


def test_a_text_counts_as_often_as_it_is_meant(folder):
    bounds = RowBounds(most_rows=100_000)
    write(folder, rows(error="x" * 10_000))
    assert faults(folder) == ["error has more than 8,192 bytes"]
    size = write(folder, rows(50_000, error="x" * 8_000))
    assert size < 1 << 17
    assert faults(folder, bounds=bounds) == ["the texts of error are longer than a run writes"]
    write(folder, rows(1_000, error="x" * 8_000))
    assert faults(folder, bounds=bounds) == []


def test_columns_have_their_types(folder):
    write(folder, rows().drop_columns(["k"]))
    assert faults(folder) == ["its column k is missing or repeated"]
    assert faults(folder, ["cell_index"]) == [], "only what is read is looked at"
    at = FINDINGS.get_field_index("confidence")
    write(folder, rows().set_column(at, "confidence", pa.array(["high"])))
    assert faults(folder) == ["its column confidence holds string, not float"]


def test_values_are_checked_where_that_is_asked_for(folder):
    write(folder, rows(k=-1))
    assert faults(folder) == ["k is -1, outside 1 to 64"]
    assert faults(folder, ["cell_index", "fooled"]) == []
    assert faults(folder, checks_values=False) == []
    assert faults(folder, bounds=None) == []


def test_a_text_that_is_none_is_found(folder):
    table = rows().set_column(
        FINDINGS.get_field_index("error"), "error", pa.array([b"\xff\xfe"]).view(pa.binary()).cast(pa.binary())
    )
    table = table.set_column(FINDINGS.get_field_index("error"), "error", _text(b"\xff\xfe"))
    write(folder, table)
    assert "UTF8" in faults(folder)[0]


def _text(content):
    """Makes a column of text of bytes that are none."""
    offsets = pa.py_buffer(pa.array([0, len(content)], pa.int32()).buffers()[1])
    return pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(content)])


def test_a_part_is_looked_at_once_for_the_same_columns_and_again_when_it_changed(folder, monkeypatch):
    write(folder, rows())
    check, looked = PartCheck(folder, BOUNDS), []
    original = PartCheck._fault
    monkeypatch.setattr(
        PartCheck, "_fault", lambda self, info, columns: looked.append(1) or original(self, info, columns)
    )
    for _ in range(3):
        check.sound(list_parts(folder), ["k"])
    assert len(looked) == 1
    write(folder, rows(k=-1))
    assert check.sound(list_parts(folder), ["k"], lambda *_: None) == []
