"""Black boxes: what a function of the user's own says counts, what is wrong with it is named, and nothing is padded."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sfi_ray import Job, launch
from sfi_ray.cluster.reporter import Reporter
from sfi_ray.errors import InputError
from sfi_ray.job import parse_job
from sfi_ray.models import Classifier
from sfi_ray.models.black_boxes.served_model import RequestSettings
from sfi_ray.models.sources.predict import PredictSource
from sfi_ray.plan import forward_rate

SHAPE = (3, 4, 5)
WEIGHTS = np.random.default_rng(0).normal(size=(60, 4)) / 4
CODE = """
import numpy as np

WEIGHTS = np.random.default_rng(0).normal(size=(64, 10)) / 4

def logits(images):
    assert images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1)
    # One image at a time, so that the bits depend on no other image.
    return np.stack([image.ravel() / 255 @ WEIGHTS for image in images])

class Made:
    def __init__(self, num_classes, input_shape):
        assert (num_classes, input_shape) == (10, (1, 8, 8))
        self.cannot_travel = (number for number in ())

    def __call__(self, images):
        return logits(images).tolist()

class Mute:
    pass

def broken(images):
    raise RuntimeError("no model here")

NUMBER = 5
"""


def logits(images):
    return np.stack([image.ravel() / 255 @ WEIGHTS for image in images])


def softmax(images):
    powers = np.exp(logits(images))
    return powers / powers.sum(axis=1, keepdims=True)


def box(predict=logits, **options):
    return Classifier.from_predict(predict, name="box", input_shape=SHAPE, num_classes=4, **options)


class Counting:
    """Counts the images of each call."""

    def __init__(self):
        self.sizes = []

    def __call__(self, images):
        self.sizes.append(len(images))
        return logits(images)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder, which is not on sys.path."""
    (tmp_path / "my_scores.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_scores", None)


def test_a_black_box_says_what_the_same_network_says():
    linear = nn.Linear(60, 4, bias=False)
    linear.weight.data = torch.tensor(WEIGHTS.T, dtype=torch.float32)
    channels_last = nn.Sequential(_ChannelsLast(), nn.Flatten(), linear)
    network = Classifier(channels_last, name="network", input_shape=SHAPE, num_classes=4)
    images = torch.randint(0, 256, (7, *SHAPE), generator=torch.Generator().manual_seed(1)) / 255
    expected = network.log_probs(images)
    for known in (
        box(),
        box(softmax, outputs="probabilities"),
        box(softmax, outputs="probabilities", precision="bfloat16"),
    ):
        assert torch.allclose(known.log_probs(images), expected, atol=1e-5)
        assert torch.allclose(known.reference_log_probs(images), expected, atol=1e-5)
        assert known.precision == "float32"


class _ChannelsLast(nn.Module):
    def forward(self, images):
        return images.permute(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        (softmax, "gives probabilities, not logits"),
        (lambda images: logits(images)[:, :3], r"returned shape \(1, 3\) for 1 image; expected \(1, 4\), one row of 4"),
        (lambda images: logits(images)[0], r"returned shape \(4,\) for 1 image"),
        (lambda images: logits(images)[:1], r"returned shape \(1, 4\) for 8 images; expected \(8, 4\)"),
        (lambda images: logits(images) * np.nan, "returned nan for class 0 of image 0 of 1; every number has to be"),
        (lambda images: "cat", "returned str, which is no array of numbers"),
        (lambda images: logits(images) > 0, "returned numbers of type bool; return float32"),
        (lambda images: logits(images) + np.inf, "returned inf for class"),
        (lambda images: np.random.default_rng().normal(size=(len(images), 4)), "other numbers for the same images"),
        (lambda images: 1 / 0, r"predict '.*<lambda>' failed: ZeroDivisionError: .* \(.*test_black_box.py, line \d+\)"),
        ("scores", "predict is str, which cannot be called"),
    ],
)
def test_what_is_wrong_with_the_answers_is_named(predict, message):
    with np.errstate(all="ignore"), pytest.raises(InputError, match=message) as caught:
        box(predict)
    assert "\n" not in str(caught.value)


def test_probabilities_sum_to_one():
    with pytest.raises(InputError, match="are not probabilities"):
        box(lambda images: softmax(images) / 2, outputs="probabilities")


def test_gradients_and_features_are_refused():
    known, blank = box(), torch.zeros(1, *SHAPE)
    for ask in (
        lambda: known.gradients(blank, lambda log_probs, _: log_probs[:, 0]),
        lambda: known.features(blank, "second_to_last"),
    ):
        with pytest.raises(InputError, match="'box' is a black box, which gives scores only"):
            ask()


def test_the_function_is_shared_by_copies_and_not_changed():
    network = nn.Linear(60, 4).half()

    def predict(images):
        assert next(network.parameters()).dtype == torch.float16
        return network(torch.tensor(images.reshape(len(images), -1)).half() / 255)

    assert box(predict).log_probs(torch.zeros(2, *SHAPE)).shape == (2, 4)


def test_no_image_is_padded_where_bits_do_not_depend_on_the_batch():
    counting = Counting()
    known = box(counting, micro_batch=8)
    assert known.module.predictor._made is counting
    for count in (1, 3, 7, 8, 19):
        known.log_probs(torch.rand(count, *SHAPE))  # each size of a pass is checked once
    for count in (1, 3, 7, 8, 19):
        counting.sizes.clear()
        known.log_probs(torch.rand(count, *SHAPE))
        assert sum(counting.sizes) == count
        assert max(counting.sizes) <= 8


def test_passes_are_padded_where_bits_depend_on_the_batch():
    sizes = []

    def predict(images):
        sizes.append(len(images))
        return logits(images) * (1 + 1e-6 * len(images))

    known = box(predict, micro_batch=8)
    images = torch.rand(8, *SHAPE)
    together = known.log_probs(images)
    apart = torch.cat([known.log_probs(part) for part in images.split([1, 2, 5])])
    assert torch.equal(apart, together)
    assert sizes[-1] == 8


def test_a_measurement_of_speed_costs_one_pass():
    counting = Counting()
    known = box(counting, micro_batch=8)
    counting.sizes.clear()
    assert forward_rate(known, threads=1) > 0
    assert sum(counting.sizes) == 8


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("name", ["logits", "Made"])
def test_code_that_is_not_installed_travels(name, tmp_path):
    source = PredictSource(what=f"my_scores:{name}")
    known = Classifier(source.build_module((1, 8, 8), 10), name="x", input_shape=(1, 8, 8), num_classes=10)
    known.log_probs(torch.zeros(1, 1, 8, 8))
    images = torch.arange(64).view(1, 1, 8, 8) / 255
    (tmp_path / "payload").write_bytes(pickle.dumps(known.to_payload(source)))
    program = (
        "import pickle, torch; from sfi_ray.models import Classifier; "
        f"known = Classifier.from_payload(pickle.loads(open({str(tmp_path / 'payload')!r}, 'rb').read())); "
        "print(known.log_probs(torch.arange(64).view(1, 1, 8, 8) / 255).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(known.log_probs(images).tolist())


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("my_score:logits", "predict 'my_score:logits': there is no module 'my_score' on sys.path or in "),
        ("my_scores:logit", "has no 'logit'; a predict is written package.module:callable"),
        ("my_scores:NUMBER", "predict 'my_scores:NUMBER' is int, which cannot be called"),
        ("my_scores:Mute", "is a class whose objects cannot be called; give it a method __call__"),
        ("my_scores:broken", r"failed: RuntimeError: no model here \(.*my_scores.py, line \d+\)"),
    ],
)
def test_what_is_wrong_with_the_code_is_named(what, message):
    with pytest.raises(InputError, match=message):
        launch(job(what), in_process=True)


def job(what="my_scores:logits", **changes):
    values = {
        "name": "boxed",
        "dataset": "digits",
        "classifiers": [{"name": "box", "predict": what}],
        "target_classes": [0, 1, 2],
        "backgrounds": ["black", "white"],
        "k": 3,
        "attack": {"kind": "de", "population_size": 6, "generations": 3},
    }
    return Job.model_validate({**values, **changes})


@pytest.mark.usefixtures("own")
def test_rows_do_not_depend_on_shards_and_a_run_resumes():
    tables = []
    for cells in (1, 6):
        run = launch(
            job(name=f"by_{cells}", cluster={"cells_per_shard": cells}, compute={"precision": "bfloat16"}),
            in_process=True,
        )
        tables.append(run.table(["cell_index", "confidence", "pixels", "evaluations"]).sort_by("cell_index"))
        assert set(tables[-1]["evaluations"].to_pylist()) == {24}
    assert tables[0].equals(tables[1])
    again = launch(job(name="by_6", compute={"precision": "bfloat16"}), in_process=True)
    assert again.table().num_rows == 6


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "attack",
    [{"kind": "gradient"}, {"kind": "map_elites", "gradient_share": 0.5}, {"kind": "inversion"}],
    ids=lambda attack: attack["kind"],
)
def test_attacks_with_gradients_are_refused_before_anything_is_written(attack, own):
    with pytest.raises(
        InputError, match=r"attack: classifier 'box' is a black box, .*; take an attack without gradients"
    ):
        launch(job(attack=attack), in_process=True)
    assert not (own / "runs" / "boxed" / "job.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": [0.5], "std": [0.5]}, "gets 8-bit images and normalises them itself; remove mean and std"),
        ({"weights": "a.safetensors"}, "brings its own weights; remove `weights`"),
        ({"factory": "a:b"}, "factory and predict each name a network; keep one of them"),
        ({"training": {"epochs": 1}}, "a job trains only networks of the zoo"),
    ],
)
def test_keys_that_do_not_belong_to_it_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        job(classifiers=[{"name": "box", "predict": "a:b", **changes}])


def test_a_function_given_in_python_is_launched(tmp_path):
    predict = Counting()
    values = {"dataset": {"name": "mine", "shape": SHAPE, "class_names": list("abcd")}, "output": str(tmp_path)}
    run = launch(job(**values), classifiers={"box": box(predict)}, in_process=True, reporter=Reporter())
    assert run.table().num_rows == 6


def test_the_job_of_the_guide_runs(tmp_path, monkeypatch):
    guide = (Path(__file__).parents[2] / "docs/guides/black-boxes.md").read_text()
    (code, *_), (text,) = (
        re.findall(rf"^```{language}\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE) for language in ("python", "yaml")
    )
    (tmp_path / "my_scores.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    run = launch(parse_job(text), in_process=True)
    sys.modules.pop("my_scores", None)
    confidences = {row["cell_index"]: row["confidence"] for row in run.table(["cell_index", "confidence"]).to_pylist()}
    assert len(confidences) == 20
    for cell in range(10):  # both say the same, as logits and as probabilities
        assert 0 < confidences[cell] <= 1


def test_the_settings_of_requests_are_documented():
    guide = (Path(__file__).parents[2] / "docs/guides/black-boxes.md").read_text()
    for name in RequestSettings.model_fields:
        assert f"| `{name}` |" in guide, name
