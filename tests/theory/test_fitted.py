import numpy as np
import pytest

from sfi_ray.data import DatasetSpec, load_split
from sfi_ray.errors import InputError
from sfi_ray.theory import MODEL_KINDS, accuracy, best_images, fit, fit_growth, greedy_images


@pytest.fixture(scope="module")
def pair():
    """Threes and eights, training images first."""
    found = []
    for split in ("train", "test"):
        images, labels = load_split(DatasetSpec(name="digits"), split)
        is_either = (labels == 3) | (labels == 8)
        found += [images[is_either].flatten(1).numpy() / 255, (labels[is_either] == 3).numpy()]
    return found


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_a_fitted_model_tells_real_digits_apart_and_can_be_fooled(kind, pair):
    images, labels, test_images, test_labels = pair
    model = fit(kind, images, labels, hidden_units=16)
    assert accuracy(model, test_images, test_labels) > 0.95
    construct = best_images if kind == "linear" else greedy_images
    found = construct(model, range(65))
    assert found.confidences[10] > 0.9
    assert found.log_odds == pytest.approx(model.log_odds(found.images))
    again = fit(kind, images, labels, hidden_units=16)
    assert np.array_equal(again.log_odds(test_images), model.log_odds(test_images))


def test_log_odds_are_those_of_scikit_learn(pair):
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC

    images, labels, test_images, _ = pair
    logistic = LogisticRegression(max_iter=1000).fit(images, labels)
    assert fit("linear", images, labels).log_odds(test_images) == pytest.approx(logistic.decision_function(test_images))
    machine = SVC(kernel="poly", degree=2).fit(images, labels)
    assert fit("kernel", images, labels).log_odds(test_images) == pytest.approx(machine.decision_function(test_images))
    network = MLPClassifier((8,), max_iter=50, random_state=3)
    with pytest.warns(UserWarning, match="converged"):
        network.fit(images, labels)
    model = fit("hidden", images, labels, hidden_units=8, seed=3)
    confidences = network.predict_proba(test_images)[:, 1]
    assert 1 / (1 + np.exp(-model.log_odds(test_images))) == pytest.approx(confidences)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("cubic", np.eye(2), [True, False]), {}, "no model 'cubic'; use one of linear, hidden, kernel"),
        (("linear", np.eye(2), [True]), {}, r"shape \(2,\), as there are 2 images; got bool of shape \(1,\)"),
        (("linear", np.eye(2), [3, 8]), {}, "labels are bool .* got int64"),
        (("linear", np.eye(2), [True, True]), {}, "of 2, 2 are of the first class"),
        (("linear", np.ones(4), [True] * 4), {}, r"images have shape \(4,\), expected \(any, any\)"),
        (("hidden", np.eye(2), [True, False]), {"hidden_units": 0}, "hidden_units = 0"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(InputError, match=message):
        fit(*arguments, **options)


def test_a_power_law_is_found_again():
    sizes = np.array([1, 2, 4, 8, 16])
    growth = fit_growth(sizes, 3.0 * sizes**1.7)
    assert growth.exponent == pytest.approx(1.7)
    assert growth.factor == pytest.approx(3.0)
    assert growth.r_squared == pytest.approx(1.0)
    assert fit_growth(sizes, np.ones(5)).exponent == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        ([1, 2], [1.0], r"values have shape \(1,\), expected \(2,\)"),
        ([0, 2], [1.0, 2.0], "must be above 0"),
        ([1, 2], [0.0, 2.0], "must be above 0"),
        ([2, 2], [1.0, 2.0], "two different sizes"),
    ],
)
def test_growth_without_logarithms_is_refused(sizes, values, message):
    with pytest.raises(InputError, match=message):
        fit_growth(sizes, values)


def test_bounds_grow_as_section_4_4_says_where_all_weights_are_positive():
    from sfi_ray.theory import HiddenLayerModel, LinearModel, QuadraticModel

    generator = np.random.default_rng(0)
    ks = np.arange(1, 41)
    ones = {
        1.0: LinearModel(np.ones(80)),
        2.0: QuadraticModel(np.ones((3, 80)), np.ones(3)),
    }
    for exponent, model in ones.items():
        assert fit_growth(ks, greedy_images(model, ks).log_odds).exponent == pytest.approx(exponent)
    sizes = [8, 16, 32, 64]
    bounds = []
    for size in sizes:
        model = HiddenLayerModel(0.5 + generator.random((size, 80)), np.zeros(size), 0.5 + generator.random(size))
        found = greedy_images(model, ks).log_odds
        assert fit_growth(ks, found).exponent == pytest.approx(1.0, abs=0.1)
        bounds.append(found[4])
    assert fit_growth(sizes, bounds).exponent == pytest.approx(1.0, abs=0.1)
