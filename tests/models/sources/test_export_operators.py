"""What classifiers export to is run and gives what they give; what could harm or take too much is refused unrun."""

import io
import json
import math
import re
import zipfile

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save
from torchvision import models

from sfi_ray.errors import InputError
from sfi_ray.models.sources.export_file import ExportSource
from sfi_ray.models.sources.export_operators import IN_PLACE, OPERATORS, check_call

SHAPE = (3, 16, 16)


def exported(module, shape=SHAPE):
    """The file that torch writes of a module, as bytes; its tensors have no memory until it is read."""
    program = export(module.eval(), (torch.rand(2, *shape),), dynamic_shapes=({0: Dim("batch")},))
    buffer = io.BytesIO()
    save(program, buffer)
    return buffer.getvalue()


def read(content, shape=SHAPE):
    return ExportSource(what="model.pt2", content=content).build_module(shape, 4)


def with_graph(content, change):
    """The bytes of an export whose graph was changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                values = json.loads(data)
                change(values["graph_module"]["graph"])
                data = json.dumps(values).encode()
            new.writestr(name, data)
    return buffer.getvalue()


class Through(nn.Module):
    """Four logits of an image, after something was done to it."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.weight = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(1, 4)

    def forward(self, images):
        changed = self.change(self, images)
        # Of whatever came out, one number.
        return self.last(changed.float().mean() + images.mean((1, 2, 3)).unsqueeze(1))


@pytest.fixture(scope="module")
def plain():
    return exported(Through(lambda _, images: torch.relu(images)))


def node_of(graph, target):
    return next(node for node in graph["nodes"] if node["target"] == f"torch.ops.aten.{target}")


# Networks that are meant to run.

SMALL = {
    "resnet": lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1], num_classes=4),
    "densenet": lambda: models.DenseNet(4, (1, 1, 1, 1), 8, num_classes=4),
    "vgg": lambda: nn.Sequential(
        models.vgg.make_layers([4, "M", 8, "M"], batch_norm=True),
        nn.AdaptiveAvgPool2d((7, 7)),
        nn.Flatten(),
        nn.Linear(392, 4),
    ),
    "squeezenet": lambda: nn.Sequential(models.squeezenet.Fire(3, 2, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    "mobilenet_v2": lambda: models.MobileNetV2(4, 0.1, [[1, 16, 1, 1], [6, 24, 1, 2]]),
    "shufflenet": lambda: models.ShuffleNetV2([1, 1, 1], [8, 8, 16, 32, 32], num_classes=4),
    "convnext": lambda: models.ConvNeXt(
        [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)], num_classes=4
    ),
    "vit": lambda: models.VisionTransformer(32, 8, 1, 2, 16, 32, num_classes=4),
    "swin": lambda: models.SwinTransformer([4, 4], 8, [2, 2], [1, 2], [3, 3], num_classes=4),
    "swin_v2": lambda: models.SwinTransformer(
        [4, 4],
        8,
        [2],
        [2],
        [3, 3],
        num_classes=4,
        block=models.swin_transformer.SwinTransformerBlockV2,
        downsample_layer=models.swin_transformer.PatchMergingV2,
    ),
    "maxvit": lambda: models.MaxVit((32, 32), 8, 4, [8], [1], 4, 0.0, num_classes=4),
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_give_what_they_give_eagerly(name):
    torch.manual_seed(0)
    network = SMALL[name]().eval()
    module = read(exported(network, (3, 32, 32)), (3, 32, 32))
    for count in (1, 3):
        images = torch.rand(count, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)


FAMILIES = {
    **dict.fromkeys(("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"), 64),
    **dict.fromkeys(("googlenet", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf"), 64),
    **dict.fromkeys(("regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"), 64),
    **dict.fromkeys(("shufflenet_v2_x0_5", "squeezenet1_0", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn"), 64),
    "inception_v3": 96,
    "maxvit_t": 224,
    "vit_b_16": 224,
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_torchvision_gives_what_it_gives_eagerly(name):
    torch.manual_seed(0)
    options = {"aux_logits": False, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = models.get_model(name, weights=None, num_classes=4, **options).eval()
    shape = (3, FAMILIES[name], FAMILIES[name])
    module = read(exported(network, shape), shape)
    images = torch.rand(3, *shape)
    with torch.no_grad():
        torch.testing.assert_close(module(images), network(images), rtol=1e-4, atol=1e-5)


def test_every_operator_of_the_list_is_torchs():
    for name in OPERATORS | IN_PLACE:
        packet, _, overload = name.partition(".")
        found = getattr(getattr(torch.ops.aten, packet), overload or "default")
        written = [argument.name for argument in found._schema.arguments if argument.is_write]
        assert bool(written) == (name in IN_PLACE), name
        assert written in ([], [found._schema.arguments[0].name]), name
        assert torch.Tag.nondeterministic_seeded not in found.tags or "dropout" in name or "attention" in name, name


def test_in_place_operators_on_new_values_are_run():
    def change(_, images):
        copied = images.clone()
        copied[:, 0] = 0
        copied[:, 1:].mul_(2)
        return torch.relu_(copied - 1).flatten(1).sum(1)

    network = Through(change).eval()
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(read(exported(network))(images), network(images))


# What is not run.

NEVER = [
    "_sparse_coo_tensor_unsafe.default",
    "_reshape_alias.default",
    "as_strided.default",
    "as_strided_.default",
    "set_.source_Tensor",
    "resize_.default",
    "_resize_output.default",
    "empty.memory_format",
    "empty_like.default",
    "empty_strided.default",
    "new_empty.default",
    "from_file.default",
    "_unsafe_index.Tensor",
    "_unsafe_index_put.default",
    "index_put_.default",
    "index_put.default",
    "put_.default",
    "scatter.value",
    "scatter_add_.default",
    "index_add.default",
    "embedding.default",
    "_embedding_bag.default",
    "grid_sampler_2d.default",
    "max_unpool2d.default",
    "max_pool2d_with_indices_backward.default",
    "convolution_backward.default",
    "native_batch_norm_backward.default",
    "embedding_dense_backward.default",
    "upsample_bilinear2d_backward.default",
    "native_batch_norm.default",
    "_native_batch_norm_legit.default",
    "_batch_norm_impl_index.default",
    "_nested_view_from_buffer.default",
    "_nested_tensor_from_mask.default",
    "_make_per_tensor_quantized_tensor.default",
    "quantize_per_tensor.default",
    "_convert_indices_from_csr_to_coo.default",
    "_to_sparse.default",
    "to_sparse.default",
    "view.dtype",
    "to.prim_dtype",
    "to.prim_Device",
    "to.prim_other",
    "add.out",
    "relu.out",
    "copy_.Tensor",
    "record_stream.default",
    "rand.default",
    "randn_like.default",
    "bernoulli.p",
    "multinomial.default",
    "normal.float_float",
    "rrelu.default",
    "nonzero.default",
    "masked_select.default",
    "unique2.default",
    "_unique2.default",
    "item.default",
    "_local_scalar_dense.default",
    "lstm.input",
    "gru.input",
    "stft.default",
    "_fft_r2c.default",
    "linalg_svd.default",
    "histc.default",
    "bincount.default",
    "_cudnn_rnn.default",
    "_foreach_add.Scalar",
    "_pin_memory.default",
    "_test_ambiguous_defaults.a",
    "load.default",
    "eval.default",
    "__class__.default",
    "__init__.default",
    "_dir.default",
    "add",
    "str",
    "default",
    "..",
    "aten.add.Tensor",
    "add.Tensor.out",
    "add.__call__",
]


@pytest.mark.parametrize("name", NEVER)
def test_operators_that_are_not_listed_are_not_run(name, plain):
    def change(graph):
        node_of(graph, "relu.default")["target"] = f"torch.ops.aten.{name}"

    with pytest.raises(InputError, match=r"model\.pt2: calls '.*', which is not among the operators"):
        read(with_graph(plain, change))


def huge_size(_, images):
    return images.new_zeros(10**12) + images.mean()


def square_of_the_batch(_, images):
    return images.new_zeros(images.shape[0], images.shape[0] ** 6).sum(1)


BOMBS = {
    "zeros": huge_size,
    "expanded and copied": lambda _, images: images.mean().expand(10**6, 10**6).clone(),
    "repeated": lambda _, images: images.repeat(1, 10**4, 10**4, 1),
    "tiled": lambda _, images: images.tile(1, 1, 1, 10**9),
    "interleaved": lambda _, images: images.repeat_interleave(10**9, 1),
    "doubled": lambda _, images: [images := torch.cat((images, images), 1) for _ in range(40)][-1],
    "padded": lambda _, images: nn.functional.pad(images, (10**9, 10**9)),
    "padded within limits": lambda _, images: nn.functional.pad(images, (4000,) * 4).repeat(1, 10, 1, 1),
    "enlarged": lambda _, images: nn.functional.interpolate(images, (10**6, 10**6)),
    "enlarged within limits": lambda _, images: nn.functional.interpolate(images, (4096, 4096)).repeat(1, 9, 1, 1),
    "a convolution's padding": lambda _, images: nn.functional.conv2d(images, torch.ones(1, 3, 3, 3), padding=10**9),
    "a convolution's stride": lambda _, images: nn.functional.conv2d(
        images, torch.ones(1, 3, 3, 3), stride=2**31, padding=1
    ),
    "a convolution's unfolding": lambda _, images: nn.functional.conv2d(
        images, images.new_zeros(1, 3, 2000, 2000), padding=1990
    ),
    "a transposed convolution": lambda _, images: nn.functional.conv_transpose2d(
        images, torch.ones(3, 1, 2, 2), stride=10**6
    ),
    "pooling": lambda _, images: nn.functional.adaptive_avg_pool2d(images, (10**6, 10**6)),
    "an outer product": lambda _, images: torch.einsum(
        "bchw,bdij->bchwdij", images, images.repeat(1, 10**4, 1, 1)
    ).sum(),
    "a product": lambda _, images: images.new_zeros(10**6, 1) @ images.new_zeros(1, 10**6),
    "a range": lambda _, images: torch.arange(10**11) * images.mean(),
    "one of many": lambda _, images: torch.eye(10**6) * images.mean(),
    "many at a time": lambda _, images: sum([images.new_zeros(images.shape[0], 2**25) for _ in range(40)][::-1]).sum(1),
    "views of many": lambda _, images: torch.stack([images.new_zeros(2, 2**26)[0, 0] for _ in range(40)]),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_takes_too_much_is_refused_before_it_is_run(name):
    content = exported(Through(BOMBS[name]))
    with pytest.raises(InputError, match=r"model\.pt2: its graph is not run on 2 images: "):
        read(content)


PARTINGS = {
    "pieces": lambda _, images: images.new_zeros(64).split(1)[0],
    "rows": lambda _, images: images.new_zeros(64).unbind()[0],
}


@pytest.mark.parametrize("name", PARTINGS)
def test_a_tensor_is_not_parted_without_end(name, monkeypatch):
    # Exporting a network that makes a million parts takes minutes and gigabytes.
    content = exported(Through(PARTINGS[name]))
    read(content)
    monkeypatch.setitem(check_call.__kwdefaults__, "most_pieces", 16)
    with pytest.raises(InputError, match="it parts a tensor into more than 16"):
        read(content)


def test_what_grows_faster_than_the_number_of_images_is_refused():
    network = Through(square_of_the_batch).eval()
    module = read(exported(network))
    images = torch.rand(3, *SHAPE)
    module(images[:2])
    with pytest.raises(InputError, match="its graph is not run on 64 images: "):
        module(torch.rand(64, *SHAPE))


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("mul", [10**10, 10**10]),
        ("pow", [2, 10**9]),
        ("pow", [10**18, 60]),
        ("mul", ["a", 10**9]),
        ("floordiv", [1, 0]),
    ],
)
def test_sizes_that_grow_without_end_are_refused(name, numbers, plain):
    def change(graph):
        given = [
            {"name": f"x{place}", "arg": {"as_string" if isinstance(number, str) else "as_int": number}, "kind": 1}
            for place, number in enumerate(numbers)
        ]
        size = {"target": f"_operator.{name}", "inputs": given, "outputs": [{"as_sym_int": {"as_name": "size"}}]}
        graph["nodes"].insert(0, {**size, "metadata": {}})

    with pytest.raises(InputError, match="its graph is not run on 2 images: "):
        read(with_graph(plain, change))


@pytest.mark.parametrize("of", ["image", "weight", "view"])
def test_images_and_weights_are_never_changed(of):
    content = exported(Through(lambda module, images: torch.relu(images if of != "weight" else module.weight * images)))
    if of == "view":
        content = exported(Through(lambda _, images: torch.relu(images.transpose(1, 2)[:, 1:])))

    def change(graph):
        node = node_of(graph, "relu.default")
        node["target"] = "torch.ops.aten.relu_.default"
        if of == "weight":
            node["inputs"][0] = node_of(graph, "mul.Tensor")["inputs"][0] | {"name": "self"}

    with pytest.raises(InputError, match=r"relu_.*it changes the images or a weight"):
        read(with_graph(content, change))


def argument(graph, target, name, value):
    """Gives an argument of a node another value."""
    node = node_of(graph, target)
    node["inputs"] = [given for given in node["inputs"] if given["name"] != name]
    node["inputs"].append({"name": name, "arg": value, "kind": 2})


@pytest.mark.parametrize("value", [-2, 2**31 - 1, 6])
@pytest.mark.parametrize("name", ["dtype", "layout", "memory_format"])
def test_numbers_in_place_of_types_are_refused(name, value):
    content = exported(Through(lambda _, images: torch.ones_like(images)))
    with pytest.raises(InputError, match=f"calls ones_like.default with {name} = {value}"):
        read(with_graph(content, lambda graph: argument(graph, "ones_like.default", name, {"as_int": value})))


@pytest.mark.parametrize("scale", [1e-300, 1e-40, 1e-10, 0.0, -1.0, 1e300, math.inf, math.nan])
def test_scales_that_lead_out_of_an_image_are_refused(scale):
    content = exported(Through(lambda _, images: nn.functional.interpolate(images, scale_factor=2.0)))
    change = {"as_floats": [scale, scale]}
    with pytest.raises(InputError, match="its graph is not run on 2 images: "):
        read(with_graph(content, lambda graph: argument(graph, "upsample_nearest2d.vec", "scale_factors", change)))


def test_division_that_stops_the_processor_is_refused():
    def change(_, images):
        least = torch.full_like(images, -(2**63), dtype=torch.int64)
        return torch.div(least, torch.full_like(least, -1), rounding_mode="trunc")

    with pytest.raises(InputError, match="it divides integers towards zero"):
        read(exported(Through(change)))


def test_indices_beyond_a_tensor_are_an_error_and_no_memory():
    network = Through(lambda _, images: images.flatten(1)[:, (images[0, 0, 0] * 10**9).long()])
    module = read(exported(network))
    for images in (torch.ones(2, *SHAPE), -torch.ones(2, *SHAPE)):
        with pytest.raises(IndexError, match="out of bounds"):
            module(images)


def test_sizes_that_follow_from_values_are_refused():
    content = exported(Through(lambda _, images: images.masked_fill(images > 0, 1)))
    changed = with_graph(
        content, lambda graph: node_of(graph, "masked_fill.Scalar").update(target="torch.ops.aten.index.Tensor")
    )
    with pytest.raises(InputError, match="its graph is not run on 2 images: "):
        read(changed)


def test_too_many_operators_are_refused(plain):
    def change(graph):
        graph["nodes"] = graph["nodes"][:1] * 50_001 + graph["nodes"]

    with pytest.raises(InputError, match=r"calls 50,\d+ operators, over 50,000"):
        read(with_graph(plain, change))


@pytest.mark.parametrize("depth", [900, 100_000])
def test_nesting_without_end_is_a_plain_fault(depth, plain):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                nested = b"[" * depth + b"]" * depth
                data = re.sub(rb'"as_tensor": ?\{', b'"as_tensor": {"deep": ' + nested + b", ", data, count=1)
            new.writestr(name, data)
    if depth > 1000:
        with pytest.raises(InputError, match="RecursionError"):
            read(buffer.getvalue())
    else:
        read(buffer.getvalue())


def test_a_graph_without_logits_is_refused():
    class Other(nn.Module):
        def forward(self, images):
            return images * 2

    with pytest.raises(InputError, match=r"it gives torch.Size\(\[2, 3, 16, 16\]\) for 2 images"):
        read(exported(Other()))
