"""Exports: the graph gives what torch gives, and a file that wants to run code is refused without running it."""

import copy
import io
import json
import pickle
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save
from torchvision import models

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier
from sfi_ray.models.sources.export_file import ExportSource

SHAPE = (3, 16, 16)


class Mixed(nn.Module):
    """Layers, a constant, sizes that are computed, and an operator with two results."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.full = nn.Linear(6 * 8 * 8, 5)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5]).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        maps = nn.functional.gelu(self.norm(self.conv(images * self.scale)))
        first, second = maps.split(3, dim=1)
        maps = torch.cat((second, first), dim=1)
        values, _ = nn.functional.max_pool2d(maps, 2, return_indices=True)
        return self.full(self.drop(values.reshape(images.shape[0], -1)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Mixed().eval()


def exported(module, shape=SHAPE, batch_size=None):
    """The file that torch writes of a module, as bytes."""
    shapes = ({0: Dim("batch")},) if batch_size is None else None
    program = export(module, (torch.rand(batch_size or 2, *shape),), dynamic_shapes=shapes)
    buffer = io.BytesIO()
    save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def content(network):
    return exported(network)


def source_of(content):
    return ExportSource(what="model.pt2", content=content)


def changed(content, file, change):
    """The bytes of an export of which one file was changed; None adds or removes nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.partition("/")[2] == file else data)
    return buffer.getvalue()


def with_json(content, file, change):
    def rewrite(data):
        values = json.loads(data)
        change(values)
        return json.dumps(values).encode()

    return changed(content, file, rewrite)


def test_a_graph_gives_what_the_network_gives_for_any_number_of_images(network, content):
    module = source_of(content).build_module(SHAPE, 5).eval()
    for count in (1, 2, 7):
        images = torch.rand(count, *SHAPE)
        with torch.no_grad():
            assert torch.equal(module(images), network(images))


def test_a_transformer_survives_export():
    torch.manual_seed(0)
    theirs = models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4).eval()
    images = torch.rand(3, 3, 32, 32)
    module = source_of(exported(theirs, (3, 32, 32))).build_module((3, 32, 32), 4)
    with torch.no_grad():
        torch.testing.assert_close(module(images), theirs(images), rtol=1e-5, atol=1e-6)


def test_gradients_flow_to_the_images(network, content):
    module = source_of(content).build_module(SHAPE, 5)
    images = torch.rand(2, *SHAPE)
    found = []
    for each in (module, network):
        batch = images.clone().requires_grad_()
        each(batch)[:, 1].sum().backward()
        found.append(batch.grad)
    torch.testing.assert_close(found[0], found[1])
    assert found[0].abs().sum() > 0


def test_it_travels_and_its_twins_have_one_fingerprint(network, content):
    source = source_of(content)
    original = Classifier(source.build_module(SHAPE, 5), name="a", input_shape=SHAPE, num_classes=5, micro_batch=4)
    payload = pickle.loads(pickle.dumps(original.to_payload(source)))
    restored = Classifier.from_payload(payload, micro_batch=4)
    images = torch.rand(6, *SHAPE)
    assert torch.equal(restored.log_probs(images), original.log_probs(images))
    again = Classifier(source.build_module(SHAPE, 5), name="b", input_shape=SHAPE, num_classes=5)
    assert again.fingerprint == original.fingerprint
    half = Classifier.from_payload(payload, precision="bfloat16", micro_batch=4)
    torch.testing.assert_close(half.log_probs(images), original.log_probs(images), atol=0.1, rtol=0.1)


def test_other_graphs_have_other_fingerprints():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    bent = nn.Sequential(*copy.deepcopy(plain), nn.Tanh())
    prints = {
        Classifier(
            source_of(exported(each, (3, 2, 2))).build_module((3, 2, 2), 2),
            name="a",
            input_shape=(3, 2, 2),
            num_classes=2,
        ).fingerprint
        for each in (plain, bent)
    }
    assert len(prints) == 2


def test_one_batch_size_takes_fewer_images_and_refuses_more(network):
    module = source_of(exported(network, batch_size=4)).build_module(SHAPE, 5)
    assert module.fixed_batch_size == 4
    images = torch.rand(4, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(module(images[:3]), network(images[:3]))
        with pytest.raises(InputError, match=r"4 images at once, not for 5; .*dynamic batch.*micro_batch to 4"):
            module(torch.rand(5, *SHAPE))


def test_another_image_size_is_refused(content):
    with pytest.raises(InputError, match=r"images of shape \(3, 16, 16\).*the data set has \(3, 32, 32\)"):
        source_of(content).build_module((3, 32, 32), 5)


def test_a_file_is_read_from_disk_and_a_missing_one_is_named(content, tmp_path):
    (tmp_path / "model.pt2").write_bytes(content)
    source = ExportSource(what=str(tmp_path / "model.pt2"))
    assert source.read_content() == content
    with pytest.raises(InputError, match=r"none\.pt2: there is no such file of torch\.export\.save"):
        ExportSource(what=str(tmp_path / "none.pt2")).build_module(SHAPE, 5)


# Files that are none, or that want to run something.


def archive(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no zip at all", archive(readme="hello"), archive(**{"a/models/model.json": "{}"})],
    ids=["nothing", "no zip", "no network", "an empty one"],  # an archive says when it was made
)
def test_what_is_no_export_is_refused(content):
    with pytest.raises(InputError, match=r"model\.pt2: .*not a (file of|network that) torch\.export\.save"):
        source_of(content).build_module(SHAPE, 5)


class Marking:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def pickled_weight(mark, content):
    """Has torch.export.load unpickle a weight with code."""

    def change(values):
        next(iter(values["config"].values()))["use_pickle"] = True

    content = with_json(content, "data/weights/model_weights_config.json", change)
    return changed(content, "data/weights/weight_0", lambda _: pickle.dumps(Marking(mark)))


def pickled_example(mark, content):
    return changed(content, "data/sample_inputs/model.pt", lambda _: pickle.dumps(Marking(mark)))


def guard(mark, content):
    return with_json(
        content, "models/model.json", lambda values: values.update(guards_code=[f"open({str(mark)!r}, 'w')"])
    )


def expression(mark, content):
    def change(values):
        for meta in values["graph_module"]["graph"]["tensor_values"].values():
            for size in meta["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = f"open({str(mark)!r}, 'w')"

    return with_json(content, "models/model.json", change)


def node_name(mark, content):
    def change(values):
        node = values["graph_module"]["graph"]["nodes"][0]
        node["name"] = f"x = open({str(mark)!r}, 'w'); y"

    return with_json(content, "models/model.json", change)


@pytest.mark.parametrize("attack", [pickled_example, guard, expression, node_name])
def test_code_that_a_graph_does_not_need_is_never_looked_at(attack, content, network, tmp_path):
    mark = tmp_path / "mark"
    module = source_of(attack(mark, content)).build_module(SHAPE, 5)
    images = torch.rand(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(module(images), network(images))
    assert not mark.exists()


def test_a_pickled_weight_is_refused_unread(content, tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(InputError, match="is a pickled object, and this program never unpickles code"):
        source_of(pickled_weight(mark, content)).build_module(SHAPE, 5)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.os.system", "only torch's own operators on tensors"),
        ("torch.ops.higher_order.cond", "only torch's own operators on tensors"),
        ("torch.ops.aten.__class__.__init__", "is not among the operators"),
        ("_operator.attrgetter", "only torch's own operators on tensors"),
        ("math.trunc", "only torch's own operators on tensors"),
        ("#namespace:name", "only torch's own operators on tensors"),
        ("torch.ops.aten.from_file.default", "is not among the operators"),
        ("torch.ops.aten.rand_like.default", "is not among the operators"),
        ("torch.ops.aten.no_such.default", "is not among the operators"),
    ],
)
def test_operators_that_could_do_more_than_compute_are_refused(target, message, content):
    def change(values):
        values["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(InputError, match=message):
        source_of(with_json(content, "models/model.json", change)).build_module(SHAPE, 5)


def test_weights_beyond_their_bytes_are_refused(content):
    def change(values):
        next(iter(values["config"].values()))["tensor_meta"]["storage_offset"] = {"as_int": 10**6}

    with pytest.raises(InputError, match="not a network"):
        source_of(with_json(content, "data/weights/model_weights_config.json", change)).build_module(SHAPE, 5)


def test_a_network_exported_while_it_trains_is_refused():
    with pytest.raises(InputError, match=r"module\.eval\(\)"):
        source_of(exported(Mixed().train())).build_module(SHAPE, 5)


def test_another_version_of_the_format_is_named(content):
    with pytest.raises(InputError, match=r"version 7 of the format, not 8\)"):
        source_of(
            with_json(content, "models/model.json", lambda values: values["schema_version"].update(major=7))
        ).build_module(SHAPE, 5)
