import json

import pytest

from sfi_ray.errors import InputError
from sfi_ray.job.classifier_text import parse_classifier
from sfi_ray.job.dataset_text import described_dataset, parse_dataset


def test_a_data_set_in_one_word_or_in_braces(tmp_path):
    assert parse_dataset("digits").name == "digits"
    found = parse_dataset(str(tmp_path))
    assert (found.name, found.path) == (tmp_path.name, str(tmp_path))
    assert parse_dataset("{name: x, shape: [1, 2, 3], class_names: [a, b]}").shape == (1, 2, 3)
    with pytest.raises(InputError, match="there is no file or folder 'no/where'"):
        parse_dataset("no/where")
    with pytest.raises(InputError, match="shapes"):
        parse_dataset("{name: x, shapes: 3}")


@pytest.mark.parametrize("content", ["cat\ndog \n\n", '["cat", "dog"]'])
def test_labels_are_lines_or_a_list(tmp_path, content):
    labels = tmp_path / "pets.txt"
    labels.write_text(content)
    found = described_dataset(labels, "3x32x32")
    assert (found.name, found.shape, found.class_names) == ("pets", (3, 32, 32), ("cat", "dog"))
    assert described_dataset(labels, "1, 8, 8").shape == (1, 8, 8)


@pytest.mark.parametrize(
    ("content", "shape", "message"),
    [
        ("cat\ndog", "32x32", "'32x32' is no shape; give channels"),
        ("cat\ndog", "17x32x32", "less than or equal to 16"),
        ("cat\ncat", "3x8x8", "cat"),
        ("cat", "3x8x8", "at least 2"),
        ("[1", "3x8x8", "neither lines of text nor a JSON list"),
        (json.dumps([1, 2]), "3x8x8", "class_names"),
    ],
)
def test_labels_that_make_no_data_set_are_refused(tmp_path, content, shape, message):
    labels = tmp_path / "pets.txt"
    labels.write_text(content)
    with pytest.raises(InputError, match=message):
        described_dataset(labels, shape)


def test_no_labels(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        described_dataset(tmp_path / "no.txt", "3x8x8")


@pytest.mark.parametrize("name", ["net.safetensors", "a/b.pt", "x.pth"])
def test_weights_alone_are_no_classifier(name):
    with pytest.raises(InputError, match="holds weights without their network"):
        parse_classifier(name)
