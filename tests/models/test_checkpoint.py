import errno
import json
import os

import pytest
import safetensors.torch
import torch

from sfi_ray.models.training.checkpoint import Checkpoint, CheckpointError, Counters, TrainingState
from sfi_ray.models.training.progress import EpochRecord

RECORD = EpochRecord(epoch=1, epochs=3, loss=0.1 + 0.2, train_accuracy=1 / 3, test_accuracy=0.5, seconds=1.25)


def make_state(value=1.0):
    tensors = {"a": torch.full((2, 3), value), "b.c": torch.tensor(7, dtype=torch.int64), "r": torch.arange(9).byte()}
    return TrainingState(tensors, Counters(device="cpu", epoch=2, step=5, epoch_seconds=0.5, history=(RECORD,)))


def assert_equal_states(left, right):
    assert left.counters == right.counters
    assert left.tensors.keys() == right.tensors.keys()
    for name, tensor in left.tensors.items():
        assert tensor.dtype == right.tensors[name].dtype
        assert torch.equal(tensor, right.tensors[name])


def test_what_was_written_is_read_to_the_last_bit(tmp_path):
    checkpoint = Checkpoint(tmp_path / "deep/folder", "mine")
    assert checkpoint.read() is None
    checkpoint.write(make_state())
    assert_equal_states(checkpoint.read(), make_state())
    checkpoint.write(make_state(2.0))
    assert_equal_states(checkpoint.read(), make_state(2.0))
    assert [file.name for file in (tmp_path / "deep/folder").iterdir()] == [Checkpoint.file_name]


def test_it_is_a_safetensors_file_with_counters_as_json(tmp_path):
    Checkpoint(tmp_path, "mine").write(make_state())
    content = (tmp_path / Checkpoint.file_name).read_bytes()
    assert set(safetensors.torch.load(content)) == {"a", "b.c", "r"}
    with safetensors.safe_open(tmp_path / Checkpoint.file_name, framework="pt") as file:
        assert json.loads(file.metadata()["counters"])["step"] == 5


def test_another_training_s_checkpoint_is_refused(tmp_path):
    Checkpoint(tmp_path, "mine").write(make_state())
    with pytest.raises(CheckpointError, match="belongs to another training"):
        Checkpoint(tmp_path, "yours").read()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, 300, -1])
def test_a_broken_file_is_refused_with_its_name(tmp_path, kept):
    checkpoint = Checkpoint(tmp_path, "mine")
    checkpoint.write(make_state())
    file = tmp_path / Checkpoint.file_name
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=rf"{Checkpoint.file_name} is broken"):
        checkpoint.read()


def test_counters_that_make_no_sense_are_refused(tmp_path):
    header = {"format": "1", "key": "mine", "counters": '{"device": "cpu", "epoch": 0}'}
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / Checkpoint.file_name, metadata=header)
    with pytest.raises(CheckpointError, match="is broken"):
        Checkpoint(tmp_path, "mine").read()


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / Checkpoint.file_name).mkdir()
    with pytest.raises(CheckpointError, match=Checkpoint.file_name):
        Checkpoint(tmp_path, "mine").read()


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoint_before_and_nothing_else(tmp_path, monkeypatch, where):
    checkpoint = Checkpoint(tmp_path, "mine")
    checkpoint.write(make_state())

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (type(tmp_path), "replace")), full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(make_state(2.0))
    monkeypatch.undo()
    assert_equal_states(checkpoint.read(), make_state())
    assert [file.name for file in tmp_path.iterdir()] == [Checkpoint.file_name]


def test_removing_takes_what_killed_processes_left_too(tmp_path):
    checkpoint = Checkpoint(tmp_path, "mine")
    checkpoint.remove()
    checkpoint.write(make_state())
    (tmp_path / f".{Checkpoint.file_name}.0123.tmp").write_bytes(b"half")
    (tmp_path / "card.json").write_text("{}")
    checkpoint.remove()
    assert [file.name for file in tmp_path.iterdir()] == ["card.json"]
