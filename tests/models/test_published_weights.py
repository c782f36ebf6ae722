"""Checkpoints as people have them are read, and what is ambiguous or would need code is refused by name."""

import argparse
import collections
import pathlib
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import build, load_into, read_state_dict
from sfi_ray.models.files.published_weights import named_as

SHAPE = (1, 8, 8)


class Settings:
    """A class of somebody's training, which is not there where the weights are read."""

    def __init__(self):
        self.rate = 0.1


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).eval()


@pytest.fixture
def state(network):
    return dict(network.state_dict())


def fresh():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 3)).eval()


def assert_loads(network, file):
    other = fresh()
    load_into(other, read_state_dict(file), str(file))
    for name, tensor in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.", "my_encoder."),
        *("model._orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.model._orig_mod.", "a.b.c."),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_beginnings_that_all_names_share_are_left_out(network, state, prefix, suffix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    longer = {prefix + name: tensor for name, tensor in state.items()}
    safetensors.torch.save_file(longer, file) if suffix == ".safetensors" else torch.save(longer, file)
    assert_loads(network, file)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
def test_what_a_compiled_part_is_called_is_left_out(network, tmp_path):
    compiled = fresh()
    compiled.load_state_dict(network.state_dict())
    compiled[0] = torch.compile(compiled[0])
    assert "0._orig_mod.weight" in compiled.state_dict()
    torch.save(compiled.state_dict(), tmp_path / "weights.pt")
    assert_loads(network, tmp_path / "weights.pt")


def test_wrappers_of_torch_are_left_out(network, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(nn.DataParallel(network))
    assert "module.module.0.weight" in averaged.state_dict()
    torch.save(averaged.state_dict(), tmp_path / "weights.pt")
    assert_loads(network, tmp_path / "weights.pt")


def test_names_that_the_network_has_are_left_as_they_are():
    wrapped = nn.Sequential(collections.OrderedDict(model=nn.Linear(2, 2)))
    load_into(wrapped, dict(wrapped.state_dict()), "weights.pt")
    own = {"model.model.weight": torch.zeros(1)}
    assert named_as(own, dict(own)).keys() == own.keys()


@given(parts=st.lists(st.sampled_from(["module", "_orig_mod", "model", "x"]), max_size=5))
def test_any_row_of_wrappers_is_left_out(parts):
    own = {"conv.weight": torch.zeros(1), "norm.num_batches_tracked": torch.tensor(3)}
    prefix = "".join(f"{part}." for part in parts)
    given_names = {prefix + name: tensor for name, tensor in own.items()}
    assert named_as(own, given_names) == own


def test_counts_of_batches_may_be_missing_or_too_many(network, state, tmp_path):
    without = {f"module.{name}": tensor for name, tensor in state.items() if "num_batches" not in name}
    torch.save(without, tmp_path / "without.pt")
    assert_loads(network, tmp_path / "without.pt")
    torch.save({**state, "5.num_batches_tracked": torch.tensor(1)}, tmp_path / "more.pt")
    assert_loads(network, tmp_path / "more.pt")


def test_weights_that_do_not_fit_are_named_without_what_wraps_them(state):
    longer = {f"module.{name}": tensor for name, tensor in state.items()}
    longer["module.head.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"do not fit Sequential: head.weight is unexpected;"):
        load_into(fresh(), longer, "weights.pt")


@pytest.mark.parametrize(
    "key",
    [
        *("state_dict", "model", "model_state_dict", "ema", "model_ema", "state_dict_ema", "net", "network", "params"),
        "my_own_name",
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
def test_checkpoints_are_read_whatever_else_they_hold(network, state, key, is_old, tmp_path):
    optimizer = torch.optim.Adam(fresh().parameters())
    checkpoint = {
        "epoch": 3,
        "best": np.float64(0.97),
        "losses": [0.5, np.float32(0.25)],
        "history": np.arange(3),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(data=pathlib.Path("data"), settings=Settings()),
        "rng": {"python": (3, (1, 2), None)},
        "callbacks": {Settings: {"best": torch.tensor(0.5)}},
        "ema_decay": 0.99,
        key: state,
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth.tar", _use_new_zipfile_serialization=not is_old)
    assert_loads(network, tmp_path / "checkpoint.pth.tar")


def test_one_checkpoint_in_another_is_read(network, state, tmp_path):
    torch.save({"model": {"epoch": 1, "state_dict": state}, "ema": None}, tmp_path / "checkpoint.pt")
    assert_loads(network, tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("keys", [("model", "model_ema"), ("state_dict", "state_dict_ema"), ("generator", "critic")])
def test_several_sets_of_weights_are_refused_with_a_mend_that_mends(network, state, keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({keys[0]: other, keys[1]: state, "epoch": 1}, "checkpoint.pt")
    with pytest.raises(
        InputError, match=f"several sets of weights: '{keys[0]}', '{keys[1]}'; save one of them"
    ) as caught:
        read_state_dict("checkpoint.pt")
    mend = re.search(r"torch\.save\(.*\)$", str(caught.value)).group()
    exec(mend, {"torch": torch})
    assert_loads(network, tmp_path / "weights.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": build("mlp", input_shape=SHAPE, num_classes=2)},
            r"\['model'\] is an object of sfi_ray\S+Mlp, not a",
        ),
        (build("mlp", input_shape=SHAPE, num_classes=2), r"what was saved is an object of sfi_ray\S+Mlp, not a dict"),
        ({"weight": torch.zeros(2), "x": Settings()}, r"\['x'\] is an object of \S*Settings, not a plain tensor"),
        ({"weight": np.zeros(2)}, r"\['weight'\] is an object of numpy\S+_reconstruct, not a tensor"),
        ({"state_dict": {"weight": 1.0}}, r"\['state_dict'\]\['weight'\] is float, not a tensor"),
        (5, "what was saved is int, not a dict of tensors"),
    ],
)
@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_objects_in_place_of_weights_are_named(content, message, is_old, tmp_path):
    torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=not is_old)
    with pytest.raises(InputError, match=message):
        read_state_dict(tmp_path / "weights.pt")


def test_nesting_without_end_is_refused(state, tmp_path):
    for _ in range(50):
        state = {"model": state}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(InputError, match="not a dict of tensors"):
        read_state_dict(tmp_path / "weights.pt")
