import json
import pickle

import pytest
import safetensors.torch
import torch

from sfi_ray.attacks import Snapshot
from sfi_ray.errors import StorageError
from sfi_ray.store.checkpoints import CHECKPOINTS, LeaseCheckpoints, drop_checkpoints
from tests.store.conftest import make_cell


def snapshot_of(indices, progress, value=0.0):
    cells = [make_cell(index) for index in indices]
    return Snapshot(
        cell_ids=tuple(cell.cell_id for cell in cells),
        progress=(progress,) * len(cells),
        notes=tuple({"best": -float("inf"), "trace": [[10, 0.1 + 0.2]], "index": index} for index in indices),
        tensors={
            "generation": torch.full((len(cells),), progress),
            "genes": torch.arange(len(cells) * 6.0).view(len(cells), 2, 3) + value,
        },
    )


def recalled(checkpoints, indices):
    """Progress and notes of each cell that something is kept of."""
    found = {}
    for snapshot in checkpoints.load([make_cell(index) for index in indices]):
        for cell_id, progress, notes in zip(snapshot.cell_ids, snapshot.progress, snapshot.notes, strict=True):
            assert cell_id not in found
            found[cell_id] = progress, notes["index"]
    return {index: progress for progress, index in found.values()}


def files(folder):
    return [info.base_name for info in folder.list(CHECKPOINTS)]


def test_what_is_kept_comes_back_to_the_last_bit(folder):
    kept = snapshot_of([3, 4, 5], progress=7)
    LeaseCheckpoints(folder, 0, 10, 60).save(kept)
    (found,) = LeaseCheckpoints(folder, 0, 10, 60).load([make_cell(index) for index in (3, 4, 5)])
    assert found.cell_ids == kept.cell_ids
    assert found.notes == kept.notes
    assert found.tensors.keys() == kept.tensors.keys()
    for name, tensor in kept.tensors.items():
        assert torch.equal(found.tensors[name], tensor)
        assert found.tensors[name].dtype == tensor.dtype


def test_a_lease_has_one_checkpoint_the_last(folder):
    checkpoints = LeaseCheckpoints(folder, 0, 10, 60)
    checkpoints.save(snapshot_of([1, 2], progress=1))
    checkpoints.save(snapshot_of([2], progress=5))
    assert len(files(folder)) == 1
    assert recalled(LeaseCheckpoints(folder, 0, 10, 60), range(10)) == {2: 5}


def test_shards_cut_in_another_way_find_their_cells_and_the_furthest_state_wins(folder):
    LeaseCheckpoints(folder, 0, 10, 60).save(snapshot_of([2, 3, 8, 9], progress=4))
    LeaseCheckpoints(folder, 5, 9, 60).save(snapshot_of([8], progress=6))
    LeaseCheckpoints(folder, 20, 30, 60).save(snapshot_of([25], progress=9))
    assert recalled(LeaseCheckpoints(folder, 8, 12, 60), range(8, 12)) == {8: 6, 9: 4}
    assert recalled(LeaseCheckpoints(folder, 10, 20, 60), range(10, 20)) == {}
    assert recalled(LeaseCheckpoints(folder, 0, 40, 60), range(40)) == {2: 4, 3: 4, 8: 6, 9: 4, 25: 9}


def test_a_finished_lease_forgets_its_own_part_and_no_other(folder):
    for start, stop in ((0, 10), (0, 5), (5, 15), (20, 30)):
        LeaseCheckpoints(folder, start, stop, 60).save(snapshot_of([start], progress=1))
    LeaseCheckpoints(folder, 0, 10, 60).remove()
    assert [name[:25] for name in files(folder)] == ["000000000005-000000000015", "000000000020-000000000030"]
    drop_checkpoints(folder)
    assert not folder.exists(CHECKPOINTS)


def test_forgetting_and_dropping_where_nothing_was_kept_is_nothing(folder):
    LeaseCheckpoints(folder, 0, 10, 60).remove()
    drop_checkpoints(folder)
    assert recalled(LeaseCheckpoints(folder, 0, 10, 60), range(10)) == {}


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('code of a checkpoint was run')",)


def lengths_differ():
    described = json.dumps([["a", "b"], [1, 1], [{}, {}]]).encode()
    notes = torch.frombuffer(bytearray(described), dtype=torch.uint8)
    return safetensors.torch.save({"notes": notes, "state.genes": torch.zeros(3, 1)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        pickle.dumps(Hostile()),
        safetensors.torch.save({"state.genes": torch.zeros(2)}),
        safetensors.torch.save({"notes": torch.frombuffer(bytearray(b"[1, 2"), dtype=torch.uint8)}),
        safetensors.torch.save({"notes": torch.frombuffer(bytearray(b"[1, 2, 3]"), dtype=torch.uint8)}),
        lengths_differ(),
    ],
    ids=["empty", "zeros", "pickle", "no notes", "broken json", "other json", "lengths"],
)
def test_a_broken_checkpoint_is_passed_over(folder, content):
    folder.write(f"{CHECKPOINTS}/000000000000-000000000010-abcdef01.safetensors", content)
    LeaseCheckpoints(folder, 0, 10, 60).save(snapshot_of([4], progress=2))
    assert recalled(LeaseCheckpoints(folder, 0, 10, 60), range(10)) == {4: 2}


def test_files_of_other_names_are_left_alone(folder):
    folder.write(f"{CHECKPOINTS}/notes.safetensors", b"mine")
    folder.write(f"{CHECKPOINTS}/000000000000-000000000010-.txt", b"mine")
    checkpoints = LeaseCheckpoints(folder, 0, 10, 60)
    assert recalled(checkpoints, range(10)) == {}
    checkpoints.remove()
    assert len(files(folder)) == 2


def test_a_checkpoint_is_due_after_its_time_and_again_after_the_next(folder, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("sfi_ray.store.checkpoints.time.monotonic", lambda: now[0])
    checkpoints = LeaseCheckpoints(folder, 0, 10, 60)
    assert not checkpoints.is_due()
    now[0] += 60
    assert checkpoints.is_due()
    checkpoints.save(snapshot_of([1], progress=1))
    assert not checkpoints.is_due()
    now[0] += 61
    assert checkpoints.is_due()


def test_a_full_disk_leaves_the_last_checkpoint(small_disk):
    from sfi_ray.store.folder import RunFolder

    folder = RunFolder(small_disk)
    checkpoints = LeaseCheckpoints(folder, 0, 10, 60)
    checkpoints.save(snapshot_of([1], progress=1))
    large = Snapshot((make_cell(1).cell_id,), (2,), ({"index": 1},), {"genes": torch.zeros(1, 100_000)})
    with pytest.raises(StorageError, match="free some space"):
        checkpoints.save(large)
    assert recalled(LeaseCheckpoints(folder, 0, 10, 60), range(10)) == {1: 1}
    assert len(files(folder)) == 1
