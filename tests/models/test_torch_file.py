"""Files of torch.save give what torch.load gives, and a hostile one neither takes memory nor reads foreign bytes."""

import io
import pickle
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from sfi_ray.models.files.bounded_reading import open_archive
from sfi_ray.models.files.torch_file import FAULTS, TorchFile, as_dictionary, as_tensor

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def saved(content, is_old=False):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not is_old)
    return buffer.getvalue()


def tensors_of(content):
    file = TorchFile(io.BytesIO(content))
    return file.tensors({name: as_tensor(value) for name, value in as_dictionary(file.content).items()})


def with_pickle(content, change, compression=zipfile.ZIP_STORED):
    """The bytes of a file in the present form whose pickle was changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("/data.pkl") else data)
    return buffer.getvalue()


def numbered(sizes, strides, offset, count):
    """A tensor of eight float32 whose description was changed, as a file."""

    class Described:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, sizes, strides, False, {})

    class Storage:
        pass

    class Writer(pickle._Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(value, Storage) else None

    def change(_):
        buffer = io.BytesIO()
        Writer(buffer, protocol=2).dump({"weight": Described()})
        return buffer.getvalue()

    return with_pickle(saved({"weight": torch.arange(8.0)}), change)


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_are_those_that_were_saved(dtype, is_old):
    whole = (torch.rand(4, 6) * 10).to(dtype)
    state = {
        "whole": whole,
        "turned": whole.T,
        "part": whole[1:3, ::2],
        "number": whole[0, 0],
        "none": torch.zeros(0, 3, dtype=dtype),
        "spread": whole[:1].expand(3, 6),
        "parameter": nn.Parameter(whole, requires_grad=False),
    }
    state["channels_last"] = whole.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last)
    read = tensors_of(saved(state, is_old))
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert read[name].dtype == dtype
        assert torch.equal(read[name], tensor)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_state_dict_is_the_one_that_torch_loads(is_old):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    network[0].weight.mark = "an attribute"  # torch saves such a tensor in another form
    content = saved(network.state_dict(), is_old)
    theirs = torch.load(io.BytesIO(content), weights_only=True)
    ours = tensors_of(content)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_any_protocol_is_read(protocol):
    buffer = io.BytesIO()
    torch.save({"weight": torch.arange(3.0)}, buffer, pickle_protocol=protocol)
    assert tensors_of(buffer.getvalue())["weight"].tolist() == [0, 1, 2]


def test_changed_descriptions_within_the_bytes_are_read():
    assert tensors_of(numbered((2, 3), (3, 1), 1, 8))["weight"].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("sizes", "strides", "offset"),
    [
        ((9,), (1,), 0),
        ((8,), (1,), 1),
        ((2, 2), (7, 2), 0),
        ((8,), (-1,), 7),
        ((8,), (1,), -1),
        ((-8,), (1,), 0),
        ((2**62, 4), (0, 1), 0),
        ((10**12,), (0,), 0),
        ((3, 10**5, 10**5), (1, 0, 0), 0),
        ((8, 1), (1,), 0),
        ((8,), (2**62,), 0),
        ((True,), (1,), 0),
        ((8.0,), (1,), 0),
        (("8",), (1,), 0),
        (None, (1,), 0),
        ((0, 2**60), (1, 1), 0),
    ],
)
def test_tensors_beyond_their_bytes_are_refused(sizes, strides, offset):
    with pytest.raises(FAULTS):
        tensors_of(numbered(sizes, strides, offset, 8))


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.empty(10**6, 10**6, device="meta"),
        lambda: torch.zeros(3, dtype=torch.complex64).conj(),
    ],
    ids=["sparse", "sparse rows", "quantised", "without memory", "conjugated"],
)
@pytest.mark.filterwarnings("ignore")
def test_other_tensors_are_none(make):
    file = TorchFile(io.BytesIO(saved({"weight": make()})))
    assert as_tensor(as_dictionary(file.content)["weight"]) is None


def test_compressed_members_are_refused():
    content = saved({"weight": torch.zeros(10**6)})
    bomb = with_pickle(content, lambda data: data, zipfile.ZIP_DEFLATED)
    assert len(bomb) < len(content) / 100
    with pytest.raises(FAULTS, match="is compressed"):
        tensors_of(bomb)


def test_tables_of_contents_are_bounded(monkeypatch):
    monkeypatch.setattr(open_archive, "__defaults__", (1000,))
    state = {str(number): torch.zeros(1) for number in range(100)}
    with pytest.raises(FAULTS, match="a table of contents of"):
        TorchFile(io.BytesIO(saved(state)))


def test_an_archive_without_a_pickle_is_a_plain_fault():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/other.pkl", b"")
    with pytest.raises(FAULTS, match=r"it has no data\.pkl"):
        TorchFile(io.BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("is_old", [False, True])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(place=st.integers(0, 2**16), byte=st.integers(0, 255), cut=st.booleans())
def test_damaged_files_are_read_or_a_plain_fault(is_old, place, byte, cut):
    content = bytearray(saved({"weight": torch.arange(8.0), "bias": torch.zeros(2, 2)}, is_old))
    place %= len(content)
    content = content[:place] if cut else content[:place] + bytes([byte]) + content[place + 1 :]
    try:
        read = tensors_of(bytes(content))
    except FAULTS:
        return
    assert sum(tensor.numel() for tensor in read.values()) < 10**4
