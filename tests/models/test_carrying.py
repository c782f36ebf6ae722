"""Whatever network people bring is searched as it computes, or refused in one line; it stays as it was."""

import copy
import pickle
import re

import pytest
import torch
from torch import nn

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier, build, fingerprint_module
from sfi_ray.models.carrying import carried
from sfi_ray.models.payload import pack_module
from sfi_ray.models.runners.copying import copied, num_bytes_held, packed
from tests.models import brought

SHAPE = (1, 8, 8)
IMAGE = torch.zeros(1, *SHAPE)
# What torch's own modules compute anew whenever they are pickled.
CACHES = ("_flat_weights", "_flat_weight_refs", "_code", "_lineno_map")


def name_of(case):
    return case.__name__


def made(case):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return case()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def classifier_of(module, **options):
    return Classifier(module, name="theirs", input_shape=SHAPE, num_classes=10, micro_batch=8, **options)


def fingerprint(module):
    return fingerprint_module(module, mean=(0.0,), std=(1.0,), input_shape=SHAPE)


def images(count=8):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def state_of(module):
    """All that would tell that a module was touched."""
    parts = {
        path: (id(part), type(part), {key: id(value) for key, value in vars(part).items() if key not in CACHES})
        for path, part in module.named_modules()
    }
    tensors = {
        name: (tensor.dtype, tensor.requires_grad, tensor.detach().clone())
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
        if not torch.nn.parameter.is_lazy(tensor)
    }
    return parts, tensors


def assert_same_state(one, other):
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, (dtype, requires_grad, values) in one[1].items():
        assert other[1][name][:2] == (dtype, requires_grad)
        if values.layout is torch.strided and not values.is_meta:
            assert torch.equal(other[1][name][2], values), name


def own_answer(case):
    """What a network gives by itself, in eval mode and float64."""
    module = made(case)
    module = getattr(module, "module", getattr(module, "_orig_mod", module))
    for part in module.modules():
        part.training = False
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return module.double()(images().double()).log_softmax(dim=1).float()


@pytest.mark.parametrize("case", [case for case in brought.SEARCHED if case is not brought.lazy], ids=name_of)
def test_what_is_searched_gives_what_the_network_gives(case):
    torch.testing.assert_close(classifier_of(made(case)).log_probs(images()), own_answer(case), rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", brought.SEARCHED, ids=name_of)
def test_what_is_searched_travels_differentiates_and_is_laid_out_anew(case):
    classifier = classifier_of(made(case))
    expected = classifier.reference_log_probs(images())
    classifier.check_packing()
    classifier.gradients(images(), lambda log_probs, _: log_probs[:, 0])
    # After a pass that kept what gradients need, as after one that kept nothing.
    assert torch.equal(classifier.running(classifier.runtime).log_probs(images()), expected)
    payload = pickle.loads(pickle.dumps(classifier.to_payload()))
    there = Classifier.from_payload(payload, precision="bfloat16", micro_batch=8)
    assert torch.equal(there.reference_log_probs(images()), expected)
    assert there.log_probs(images()).isfinite().all()


@pytest.mark.parametrize("case", brought.SEARCHED, ids=name_of)
def test_what_is_searched_is_plain(case):
    module = classifier_of(made(case)).module
    assert not any(part.training for part in module.modules())
    tensors = [*module.parameters(), *module.buffers()]
    assert all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in tensors)
    assert not [name for name, _ in module.named_parameters() if "parametrizations" in name or name.endswith("_orig")]


@pytest.mark.parametrize("case", brought.SEARCHED, ids=name_of)
def test_a_network_that_is_given_stays_as_it_was(case):
    module = made(case)
    before = state_of(module)
    classifier_of(module).log_probs(images())
    assert_same_state(before, state_of(module))


@pytest.mark.parametrize(("case", "message"), brought.REFUSED.items(), ids=lambda case: getattr(case, "__name__", ""))
def test_what_is_refused_is_told_where_and_how_to_mend_it(case, message):
    module = made(case)
    before = state_of(module)
    with pytest.raises(InputError, match=f"^classifier 'theirs': {message}") as caught:
        classifier_of(module)
    assert "\n" not in str(caught.value)
    assert_same_state(before, state_of(module))


@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (nn.Linear, "the network is the class Linear; give an instance"),
        (lambda images: images.flatten(1), "the network is of type function; give an instance"),
        ({"weight": torch.ones(2)}, "the network is of type dict; give an instance"),
    ],
)
def test_what_is_no_network_is_refused(thing, message):
    with pytest.raises(InputError, match=message):
        classifier_of(thing)


def test_carrying_again_changes_nothing():
    for case in (brought.spectral_norm_parametrized, brought.pruned, brought.lazy, brought.of_plain_tensors):
        once = carried(case(), IMAGE, "theirs")
        twice = carried(once, IMAGE, "theirs")
        assert fingerprint(once) == fingerprint(twice)
        assert torch.equal(once(images()), twice(images()))


def test_a_folded_network_is_the_plain_one_of_its_weights():
    folded = classifier_of(brought.weight_norm_parametrized())
    same = brought.plain()
    same.load_state_dict(folded.module.state_dict())
    assert classifier_of(same).fingerprint == folded.fingerprint


def test_weights_of_a_folded_network_load_into_it():
    for case in (brought.weight_norm_hook, brought.spectral_norm_hook, brought.spectral_norm_parametrized):
        one, other = carried(case(), IMAGE, "theirs"), carried(case(), IMAGE, "theirs")
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.mul_(2)
        other.load_state_dict(dict(one.state_dict()))
        assert torch.equal(one(images()), other(images()))


def test_lazy_layers_are_filled_alike_every_time_without_drawing_from_the_global_generator():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one = classifier_of(made(brought.lazy))
    torch.rand(3)
    other = classifier_of(made(brought.lazy))
    assert one.fingerprint == other.fingerprint
    torch.set_rng_state(before)
    carried(nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), IMAGE, "theirs")
    assert torch.equal(torch.get_rng_state(), before)


def test_kept_activations_are_those_of_one_image():
    large = brought.keeps_its_last_activation()
    assert num_bytes_held(large) > 1000 * 32 * 4
    assert num_bytes_held(classifier_of(large).module) < 20_000
    hooked = brought.hook_that_keeps_the_last_activation()
    assert len(packed(carried(hooked, IMAGE, "theirs"))) < 40_000


def test_a_hook_of_a_copy_keeps_nothing_in_what_the_user_holds():
    model, kept = brought.plain(), {}
    model[1].register_forward_hook(lambda _module, _inputs, output: kept.update(last=output))
    classifier_of(model).log_probs(images())
    assert kept == {}


def test_shared_weights_stay_shared():
    module = classifier_of(brought.sharing_weights()).module
    assert module[1].weight is module[2].weight


def test_plain_tensors_take_the_precision_of_the_network():
    classifier = classifier_of(brought.of_plain_tensors(), precision="bfloat16")
    (fast, reference) = classifier._fast, classifier.module
    assert (fast.shift.dtype, fast.scales[1]["last"].dtype) == (torch.bfloat16, torch.bfloat16)
    assert (reference.shift.dtype, reference.scales[1]["last"].dtype) == (torch.float32, torch.float32)


def test_locks_of_a_copy_are_its_own():
    module = brought.locked()
    with module.lock:
        classifier = classifier_of(module)  # would wait for ever on the same lock
        assert not classifier.module.lock.locked()
        Classifier.from_payload(pickle.loads(pickle.dumps(classifier.to_payload())))


def test_a_reference_to_itself_is_to_the_copy():
    module = copied(brought.odds_and_ends())
    assert module.me() is module
    assert module.gone() is None


def test_what_is_folded_wrongly_is_refused(monkeypatch):
    def wrong(module, name):
        nn.utils.remove_weight_norm(module, name)
        with torch.no_grad():
            module.weight.mul_(1.01)

    monkeypatch.setattr("sfi_ray.models.carrying.remove_weight_norm", wrong)
    with pytest.raises(InputError, match="its submodule '3' computes something else after WeightNorm is folded"):
        classifier_of(brought.weight_norm_hook())


def test_the_innermost_thing_is_named():
    model = brought.plain()
    model[1].hidden = nn.Identity()
    model[1].hidden.stream = [{"deep": (number for number in range(3))}]
    with pytest.raises(InputError, match=re.escape("'stream' of its submodule '1.hidden' cannot be copied")):
        classifier_of(model)


def test_a_network_of_the_zoo_with_a_hook_travels_with_it():
    network = build("mlp", input_shape=SHAPE, num_classes=10)
    network.register_forward_hook(lambda _module, _inputs, output: 3 * output)
    classifier = classifier_of(network)
    there = Classifier.from_payload(pickle.loads(pickle.dumps(classifier.to_payload())), micro_batch=8)
    assert torch.equal(there.log_probs(images()), classifier.log_probs(images()))
    plain = classifier_of(build("mlp", input_shape=SHAPE, num_classes=10)).module
    options = {"name": "theirs", "input_shape": SHAPE, "num_classes": 10}
    assert pack_module(plain, **options)[2] is None, "a plain one travels by its name"


def test_what_code_refers_to_is_found_before_it_is_packed():
    numbers = (number for number in range(3))

    class OfItsTime(nn.Flatten):
        def forward(self, images):
            return super().forward(images)[:, :10] - 0.5 if numbers else next(numbers)

    with pytest.raises(InputError, match=r"^classifier 'theirs': the network cannot be copied .*'generator' object"):
        classifier_of(OfItsTime()).check_packing()


def test_a_copy_in_inference_mode_takes_gradients():
    with torch.inference_mode():
        module = carried(brought.weight_norm_hook(), IMAGE, "theirs")
    pixels = images().requires_grad_()
    module(pixels).sum().backward()
    assert pixels.grad.abs().sum() > 0


def test_a_network_of_many_layers_is_copied_whole():
    deep = nn.Sequential(*(nn.Sequential(nn.Flatten(), nn.Identity()) for _ in range(150)))
    assert len(list(copied(deep).modules())) == len(list(copy.deepcopy(deep).modules()))


def test_a_refusal_of_an_image_is_one_line():
    class Refusing(nn.Flatten):
        def forward(self, images):
            raise ValueError("one\n  two\nthree" + "." * 10_000)

    with pytest.raises(
        InputError, match=r"'theirs': the network refuses an image of shape \(1, 8, 8\): one two three"
    ) as caught:
        classifier_of(Refusing())
    assert len(str(caught.value)) < 1000
