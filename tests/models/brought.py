"""Networks as people bring them, as factories for gray images of 8x8 pixels and ten classes."""

import logging
import threading
import warnings
import weakref
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

GLOBAL_LOCK = threading.Lock()


def plain():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)).eval()


def quietly(function, *arguments, **options):
    """Calls what torch is about to drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments, **options)


def trained(module):
    """Leaves a module in train mode after some passes, which spectral_norm counts on."""
    module.train()
    for _ in range(5):
        module(torch.ones(2, 1, 8, 8))
    return module


class Holding(nn.Module):
    """Holds what it is given beside a network."""

    def __init__(self, **held):
        super().__init__()
        self.model = plain()
        for name, thing in held.items():
            setattr(self, name, thing)

    def forward(self, images):
        return self.model(images)


# What is searched.


def weight_norm_hook():
    model = plain()
    quietly(nn.utils.weight_norm, model[3])
    return model


def weight_norm_parametrized():
    model = plain()
    parametrizations.weight_norm(model[3])
    return model


def spectral_norm_hook():
    model = plain()
    quietly(nn.utils.spectral_norm, model[1])
    return trained(model)


def spectral_norm_parametrized():
    model = plain()
    parametrizations.spectral_norm(model[1])
    return trained(model)


def pruned():
    model = plain()
    prune.l1_unstructured(model[1], "weight", 0.3)
    prune.random_unstructured(model[3], "bias", 0.5)
    return model


def pruned_twice():
    model = plain()
    prune.l1_unstructured(model[1], "weight", 0.3)
    prune.ln_structured(model[1], "weight", 0.3, n=2, dim=0)
    return model


class _Softened(nn.Module):
    def forward(self, weight):
        return weight.tanh()


def parametrized_by_a_class_of_its_own():
    model = plain()
    parametrize.register_parametrization(model[1], "weight", _Softened())
    parametrizations.orthogonal(model[3])
    return model


class _Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells = nn.LSTM(8, 10, batch_first=True)

    def forward(self, images):
        return self.cells(images[:, 0])[0][:, -1]


def recurrent_with_weight_norm():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _Recurrent()
    quietly(nn.utils.weight_norm, model.cells, "weight_hh_l0")
    return model


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.Linear(16, 10))


def data_parallel():
    return nn.DataParallel(plain())


def compiled():
    return quietly(torch.compile, plain(), backend="eager")


def compiled_inside():
    model = plain()
    model[1] = quietly(torch.compile, model[1], backend="eager")
    quietly(model[3].compile, backend="eager")
    return model


def averaged():
    return torch.optim.swa_utils.AveragedModel(plain())


def traced_by_fx():
    return torch.fx.symbolic_trace(plain())


def half():
    return plain().half()


def double_and_training():
    return plain().double().train()


def without_gradients():
    return plain().requires_grad_(False)


def sharing_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    model[2].weight = model[1].weight
    return model


def not_contiguous():
    model = plain()
    model[1].weight = nn.Parameter(model[1].weight.detach().T.contiguous().T)
    model[1].bias = nn.Parameter(torch.ones(1).expand(32))
    return model


class _OfPlainTensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()
        self.shift = torch.full((1, 1, 8, 8), 0.25, dtype=torch.float64)  # neither parameter nor buffer
        self.scales = [torch.tensor(2.0), {"last": torch.tensor(0.5)}]
        self.register_buffer("offset", torch.ones(10), persistent=False)

    def forward(self, images):
        logits = self.model((images - self.shift) * self.scales[0])
        return logits * self.scales[1]["last"] + self.offset


def of_plain_tensors():
    return _OfPlainTensors()


class _OfInference(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()
        with torch.inference_mode():
            self.register_buffer("shift", torch.full((1, 1, 8, 8), 0.25))

    def forward(self, images):
        return self.model(images - self.shift)


def of_inference_tensors():
    return _OfInference()


class _Locked(nn.Module):
    def __init__(self):
        super().__init__()
        self.lock, self.again, self.ready = threading.Lock(), threading.RLock(), threading.Condition()
        self.local = threading.local()
        self.model = plain()

    def forward(self, images):
        with self.lock, self.again, self.ready, GLOBAL_LOCK:
            return self.model(images)


def locked():
    return _Locked()


def odds_and_ends():
    model = Holding(
        act=lambda images: images,
        logger=logging.getLogger("brought"),
        functions=nn.functional,
        generator=torch.Generator(),
        event=threading.Event(),
    )
    model.me = weakref.ref(model)
    model.gone = weakref.ref(nn.Identity())
    return model


class _KeepsTheLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()
        self.last = None

    def forward(self, images):
        self.last = self.model[:2](images)
        return self.model[2:](self.last)


def keeps_its_last_activation():
    model = _KeepsTheLast()
    model(torch.ones(1000, 1, 8, 8))
    return model


def hook_that_keeps_the_last_activation():
    model, kept = plain(), {}
    model[1].register_forward_hook(lambda _module, _inputs, output: kept.update(last=output))
    model(torch.ones(1000, 1, 8, 8))
    return model


def forward_of_its_own():
    model = plain()
    own = model.forward
    model.forward = lambda images: 2 * own(images)
    return model


class _WithoutReturn(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()

    def train(self, mode=True):
        super().train(mode)

    def forward(self, images):
        return self.model(images)


def train_that_returns_nothing():
    return _WithoutReturn()


# What is refused.


def scripted():
    return quietly(torch.jit.script, plain())


def traced():
    return quietly(torch.jit.trace, plain(), torch.ones(1, 1, 8, 8))


def scripted_inside():
    model = plain()
    model[1] = quietly(torch.jit.script, model[1])
    return model


def quantized():
    return quietly(torch.ao.quantization.quantize_dynamic, plain(), {nn.Linear}, dtype=torch.qint8)


def quantized_statically():
    def make():
        model = torch.ao.quantization.QuantWrapper(plain())
        model.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
        torch.ao.quantization.prepare(model, inplace=True)
        model(torch.rand(4, 1, 8, 8))
        return torch.ao.quantization.convert(model)

    return quietly(make)


class _Int8(torch.Tensor):
    """Weights as libraries of quantisation have them: a tensor that computes itself from others."""

    @staticmethod
    def __new__(cls, values, scale):
        return torch.Tensor._make_wrapper_subclass(cls, values.shape, dtype=torch.float32)

    def __init__(self, values, scale):
        self.values, self.scale = values, scale

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return args[0]
        plain = [arg.values * arg.scale if isinstance(arg, _Int8) else arg for arg in args]
        return function(*plain, **(kwargs or {}))


def of_tensors_of_another_kind():
    model = plain()
    weight = model[3].weight.detach()
    model[3].weight = nn.Parameter(_Int8((weight * 100).round(), torch.tensor(0.01)), requires_grad=False)
    return model


def without_values():
    model = plain()
    model[1].weight = nn.Parameter(torch.empty(32, 64, device="meta"))
    return model


def sparse():
    model = plain()
    model[1].weight = nn.Parameter(model[1].weight.detach().to_sparse())
    return model


def exported():
    return torch.export.export(plain(), (torch.ones(2, 1, 8, 8),)).module()


def holds_a_generator():
    return Holding(numbers=(number for number in range(3)))


def holds_an_open_file():
    model = Holding(log=Path("log.txt").open("w"))  # noqa: SIM115 - that it stays open is the case
    weakref.finalize(model, model.log.close)
    return model


class _Random(nn.Module):
    def forward(self, weight):
        return weight + torch.rand_like(weight)


def random_parametrization():
    model = plain()
    parametrize.register_parametrization(model[1], "weight", _Random())
    return model


def hook_that_keeps_every_activation():
    model, kept = plain(), []
    model[1].register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    return model


class _KeepsAll(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()
        self.seen = []

    def forward(self, images):
        self.seen.append(images.numpy().copy())
        return self.model(images)


def keeps_every_image():
    return _KeepsAll()


class _Unreached(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = plain()
        self.spare = nn.LazyLinear(3)

    def forward(self, images):
        return self.model(images)


def lazy_and_unreached():
    return _Unreached()


SEARCHED = (
    weight_norm_hook,
    weight_norm_parametrized,
    spectral_norm_hook,
    spectral_norm_parametrized,
    pruned,
    pruned_twice,
    parametrized_by_a_class_of_its_own,
    recurrent_with_weight_norm,
    lazy,
    data_parallel,
    compiled,
    compiled_inside,
    averaged,
    traced_by_fx,
    half,
    double_and_training,
    without_gradients,
    sharing_weights,
    not_contiguous,
    of_plain_tensors,
    of_inference_tensors,
    locked,
    odds_and_ends,
    keeps_its_last_activation,
    hook_that_keeps_the_last_activation,
    forward_of_its_own,
    train_that_returns_nothing,
)

REFUSED = {
    scripted: r"the network is scripted or traced; give the module that it was made from",
    traced: r"the network is scripted or traced; .*load_state_dict",
    scripted_inside: r"its submodule '1' is scripted or traced",
    quantized: r"its submodule '1' is quantised \(Linear\); give the float network",
    quantized_statically: r"its submodule '\w+' is quantised \(\w+\); give the float network",
    of_tensors_of_another_kind: r"'weight' of its submodule '3' is a _Int8, .*; give the float network",
    without_values: r"'weight' of its submodule '1' has no values \(torch's meta device\); load its weights first",
    sparse: r"'weight' of its submodule '1' is laid out as torch\.sparse_coo; give a dense tensor",
    exported: r"the network is the module of an exported program; .*`export`",
    holds_a_generator: r"'numbers' of the network cannot be copied .*'generator' object\); create it when the network",
    holds_an_open_file: r"'log' of the network cannot be copied .*not opened for reading.*; create it when the network",
    random_parametrization: r"its submodule '1' has a parametrization that computes another 'weight' every time",
    hook_that_keeps_every_activation: r"its submodule '1' keeps what it computes .*remove the hook",
    keeps_every_image: r"the network keeps what it computes and holds more after every pass",
    lazy_and_unreached: r"its submodule 'spare' is lazy and no forward pass reaches it; remove it",
}
