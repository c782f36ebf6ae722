import errno
import os
import pickle

import pytest
import safetensors.torch
import torch

from sfi_ray.errors import InputError, StorageError
from sfi_ray.models import (
    ModelCard,
    TrainingSettings,
    build,
    check_weights,
    fingerprint_module,
    load_into,
    read_card,
    read_state_dict,
    save_weights,
    weights_bytes,
)
from sfi_ray.models.card import hash_weights

SHAPE = (1, 8, 8)


class Hostile:
    """Unpickling it makes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build("cnn_mp", input_shape=SHAPE, num_classes=10)


@pytest.fixture
def card(network):
    return ModelCard(
        architecture="cnn_mp",
        dataset="digits",
        input_shape=SHAPE,
        class_names=tuple("0123456789"),
        mean=(0.1 + 0.2,),
        std=(1 / 3,),
        settings=TrainingSettings(epochs=2),
        epochs=2,
        test_accuracy=0.97,
        test_confidence=0.95,
        fingerprint="0" * 32,
        weights_hash=hash_weights(network.state_dict()),
        seconds=1.5,
        versions={"torch": "2.13.0"},
        threads=1,
        device="cpu",
    )


def assert_equal_states(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_saved_weights_and_card_come_back_as_they_were(network, card, tmp_path):
    network.to(memory_format=torch.channels_last)
    save_weights(network, tmp_path / "new" / "folder", card)
    names = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert names == ["card.json", "weights.safetensors"]
    assert read_card(tmp_path / "new" / "folder") == card
    other = build("cnn_mp", input_shape=SHAPE, num_classes=10)
    load_into(other, read_state_dict(tmp_path / "new" / "folder" / "weights.safetensors"), "the test")
    assert_equal_states(other.state_dict(), network.state_dict())
    prints = [fingerprint_module(net, mean=[0], std=[1], input_shape=SHAPE) for net in (network, other)]
    assert prints[0] == prints[1]


def test_tensors_that_share_memory_can_be_saved():
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    network[1].weight = network[0].weight
    state = safetensors.torch.load(weights_bytes(network))
    assert_equal_states(state, network.state_dict())


def test_failed_save_leaves_the_old_files_and_no_others(network, card, tmp_path, monkeypatch):
    save_weights(network, tmp_path, card)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with torch.no_grad():
        network.get_submodule("fc2").bias.add_(1)
    with pytest.raises(StorageError, match=r"cannot be written here: .*No space left"):
        save_weights(network, tmp_path, card)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_folder_that_is_a_file_is_a_matter_of_storage(network, card, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(StorageError, match="taken: the weights cannot be written here"):
        save_weights(network, tmp_path / "taken", card)


def test_missing_and_broken_cards_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"card.json: the card of a trained network cannot be read"):
        read_card(tmp_path)
    (tmp_path / "card.json").write_text('{"architecture": "mlp"}')
    with pytest.raises(InputError, match=r"card.json: not the card of a trained network"):
        read_card(tmp_path)


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("is_nested", [False, True])
def test_plain_dicts_of_tensors_are_read(network, suffix, is_nested, tmp_path):
    state = network.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if is_nested else state, tmp_path / f"weights{suffix}")
    assert_equal_states(read_state_dict(tmp_path / f"weights{suffix}"), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_half_precision_files_are_read_as_float32(dtype, suffix, tmp_path):
    state = {"weight": torch.rand(3, 2).to(dtype), "count": torch.tensor([7])}
    file = tmp_path / f"weights{suffix}"
    safetensors.torch.save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    loaded = read_state_dict(file)
    assert loaded["weight"].dtype == torch.float32
    assert torch.equal(loaded["weight"], state["weight"].float())
    assert loaded["count"].dtype == torch.int64


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("is_bare_pickle", [False, True])
def test_code_in_a_pickle_is_never_run(suffix, is_bare_pickle, tmp_path):
    trap = tmp_path / "trap"
    file = tmp_path / f"weights{suffix}"
    content = {"weight": torch.zeros(2), "hostile": Hostile(trap)}
    if is_bare_pickle:
        file.write_bytes(pickle.dumps({"hostile": Hostile(trap)}))
    else:
        torch.save(content, file)
    with pytest.raises(InputError, match=rf"weights{suffix}: .* never unpickles code.*save_file"):
        read_state_dict(file)
    assert not trap.exists()


def test_whole_module_in_a_pickle_is_refused(network, tmp_path):
    torch.save(network, tmp_path / "module.pt")
    with pytest.raises(InputError, match="never unpickles code"):
        read_state_dict(tmp_path / "module.pt")


@pytest.mark.parametrize("content", [[torch.zeros(2)], {}, {"weight": 1.0}, {3: torch.zeros(2)}, {"state_dict": 5}])
def test_pickles_of_anything_but_tensors_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"weights.pt: .* not a .*tensor"):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_missing_empty_truncated_and_random_files_are_input_errors(network, suffix, tmp_path):
    file = tmp_path / f"weights{suffix}"
    with pytest.raises(InputError, match="there is no such file"):
        read_state_dict(file)
    file.touch()
    with pytest.raises(InputError, match="the file is empty"):
        read_state_dict(file)
    if suffix == ".safetensors":
        file.write_bytes(weights_bytes(network))
    else:
        torch.save(network.state_dict(), file)
    whole = file.read_bytes()
    for broken in (whole[:4], whole[: len(whole) // 2], whole[:-1], b"\xff" * 100, b"\0" * 100):
        if suffix == ".pt" and broken == whole[:-1]:
            continue  # the last byte of a zip file is not needed
        file.write_bytes(broken)
        with pytest.raises(InputError, match=rf"weights{suffix}: not a"):
            read_state_dict(file)


def test_folders_and_texts_are_refused(tmp_path):
    with pytest.raises(InputError, match="this is a folder, not a file of weights; name the file in it"):
        read_state_dict(tmp_path)
    (tmp_path / "weights.pt").write_text("x")
    with pytest.raises(InputError, match=r"weights.pt: not a file of weights, nor any other.*; save the weights with"):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pth.tar", ".pt", ".pth", ".safetensors", ""])
@pytest.mark.parametrize("is_safetensors", [False, True])
def test_content_and_not_the_suffix_says_how_a_file_is_read(network, suffix, is_safetensors, tmp_path):
    file = tmp_path / f"weights{suffix}"
    if is_safetensors:
        file.write_bytes(weights_bytes(network))
    else:
        torch.save(network.state_dict(), file)
    assert_equal_states(read_state_dict(file), network.state_dict())


def test_weights_are_those_of_their_card_or_refused(network, card, tmp_path):
    save_weights(network, tmp_path, card)
    assert check_weights(tmp_path) == card
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    (tmp_path / "weights.safetensors").write_bytes(weights_bytes(network))
    with pytest.raises(InputError, match=r"weights.safetensors: card.json was written for other weights"):
        check_weights(tmp_path)


@pytest.mark.parametrize("change", [lambda w: w.to(torch.int64), lambda w: w > 0, lambda w: w.to(torch.complex64)])
def test_weights_of_another_kind_of_number_are_refused(network, change):
    state = dict(network.state_dict())
    state["fc2.bias"] = change(state["fc2.bias"])
    with pytest.raises(InputError, match=r"fc2.bias is torch\.\w+, the network needs torch.float32"):
        load_into(network, state, "weights.pt")


def test_a_header_that_claims_more_than_the_file_is_refused(network, tmp_path):
    file = tmp_path / "weights.safetensors"
    whole = weights_bytes(network)
    for size in (2**24 + 1, 2**40, 2**64 - 1):
        file.write_bytes(size.to_bytes(8, "little") + whole[8:])
        with pytest.raises(InputError, match=r"not a whole file of safetensors .*a header of"):
            read_state_dict(file)
    file.write_bytes(whole.replace(b"[10,", b"[11,").replace(b"[10]", b"[11]"))
    with pytest.raises(InputError, match="not a whole file of safetensors"):
        read_state_dict(file)


def test_tensors_that_do_not_fit_are_named_and_nothing_is_loaded(network):
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    del state["conv1.bias"]
    state["fc2.bias"] = torch.zeros(7)
    state["extra"] = torch.zeros(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_into(network, state, "weights.pt")
    message = str(caught.value)
    assert message.startswith("weights.pt: the weights do not fit Cnn: ")
    assert "conv1.bias is missing" in message
    assert "extra is unexpected" in message
    assert "fc2.bias has shape (7,), the network needs (10,)" in message
    assert_equal_states(network.state_dict(), before)


def test_long_lists_of_faults_are_cut(network):
    with pytest.raises(InputError, match="and 5 more"):
        load_into(network, {}, "weights.pt")
