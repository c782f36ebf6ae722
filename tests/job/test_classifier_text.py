import pytest

from sfi_ray.errors import InputError
from sfi_ray.job import ClassifierSpec
from sfi_ray.job.classifier_text import parse_classifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cnn_mp", {"name": "cnn_mp"}),
        (" mlp ", {"name": "mlp"}),
        ("my.package:make", {"name": "my.package-make", "factory": "my.package:make"}),
        ("models/net one.pt2", {"name": "net-one", "export": "models/net one.pt2"}),
        (
            "{torchvision: resnet50, weights: DEFAULT}",
            {"name": "resnet50", "torchvision": "resnet50", "weights": "DEFAULT"},
        ),
        (
            "{name: a, architecture: mlp, weights: w.safetensors}",
            {"name": "a", "architecture": "mlp", "weights": "w.safetensors"},
        ),
    ],
)
def test_a_word_or_a_line_is_what_a_job_would_say(text, expected):
    assert parse_classifier(text) == ClassifierSpec.model_validate(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no name"),
        ("{name: a, weigths: b}", "did you mean 'weights'?"),
        ("{name: a", "not valid YAML"),
        ("two words", "has forbidden characters"),
        ("{name: a}, {name: b}", "is more than one classifier"),
        ("{name: !!python/object:os.system a}", "tags such as"),
    ],
)
def test_what_no_job_would_take_is_refused_in_the_same_words(text, message):
    with pytest.raises(InputError, match=message):
        parse_classifier(text)
