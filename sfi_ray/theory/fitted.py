"""The three models of Section 4, fitted to images with scikit-learn.

Shapes: N images, D pixels.
"""

from __future__ import annotations

import warnings
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sfi_ray.errors import InputError
from sfi_ray.theory.definition import Floats, checked_array
from sfi_ray.theory.hidden_layer import HiddenLayerModel
from sfi_ray.theory.linear import LinearModel
from sfi_ray.theory.model import LogOddsModel
from sfi_ray.theory.quadratic import QuadraticModel

ModelKind = Literal["linear", "hidden", "kernel"]
MODEL_KINDS: tuple[ModelKind, ...] = get_args(ModelKind)


def fit(
    kind: ModelKind, images: ArrayLike, is_first: ArrayLike, *, hidden_units: int = 64, seed: int = 0
) -> LinearModel | HiddenLayerModel | QuadraticModel:
    """Fits a model that tells the images of one class from others.

    Args:
        kind: ``linear`` is logistic regression (Section 4.1), and ``hidden`` a network with one hidden layer of ReLUs
            (4.2). ``kernel`` is a support vector machine with the homogeneous polynomial kernel of degree 2 (4.3); its
            decision function stands for the log-odds, as in (23).
        images: In [0, 1], ``(N, D)``.
        is_first: Whether each is of the class to be predicted, ``(N,)`` bool.
        hidden_units: D_h of ``hidden``.
        seed: Of the weights and batches of ``hidden``; the others draw nothing.

    Raises:
        InputError: The kind is not one of these, a shape does not fit, or one class has no image.
    """
    if kind not in MODEL_KINDS:
        raise InputError(f"there is no model '{kind}'; use one of {', '.join(MODEL_KINDS)}")
    if hidden_units < 1:
        raise InputError(f"a hidden layer has at least 1 unit, got hidden_units = {hidden_units}")
    inputs = checked_array(images, (None, None), "images")
    labels = _checked_labels(is_first, len(inputs))
    if labels.all() or not labels.any():
        raise InputError(f"both classes need images; of {len(labels)}, {int(labels.sum())} are of the first class")
    match kind:
        case "linear":
            return _logistic_regression(inputs, labels)
        case "hidden":
            return _perceptron(inputs, labels, hidden_units, seed)
        case "kernel":
            return _support_vector_machine(inputs, labels)


def accuracy(model: LogOddsModel, images: ArrayLike, is_first: ArrayLike) -> float:
    """Returns the share of images, ``(N, D)``, that a model puts into their class, ``(N,)`` bool, in [0, 1].

    Raises:
        InputError: A shape does not fit.
    """
    found = model.log_odds(images) > 0
    return float((found == _checked_labels(is_first, len(found))).mean())


def _checked_labels(is_first: ArrayLike, num_images: int) -> NDArray[np.bool_]:
    labels = np.asarray(is_first)
    if labels.shape != (num_images,) or labels.dtype != np.bool_:
        raise InputError(
            f"labels are bool and have shape ({num_images},), as there are {num_images} images; got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return labels


def _logistic_regression(images: Floats, is_first: NDArray[np.bool_]) -> LinearModel:
    from sklearn.exceptions import ConvergenceWarning  # a second to import
    from sklearn.linear_model import LogisticRegression

    # A fit may end before it has converged: the theorems hold for any weights.
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = LogisticRegression(max_iter=1000).fit(images, is_first)
    return LinearModel(fitted.coef_[0], fitted.intercept_[0])


def _perceptron(images: Floats, is_first: NDArray[np.bool_], hidden_units: int, seed: int) -> HiddenLayerModel:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        fitted = MLPClassifier((hidden_units,), max_iter=50, random_state=seed).fit(images, is_first)
    (hidden, output), (hidden_biases, output_biases) = fitted.coefs_, fitted.intercepts_
    return HiddenLayerModel(hidden.T, hidden_biases, output[:, 0], output_biases[0])


def _support_vector_machine(images: Floats, is_first: NDArray[np.bool_]) -> QuadraticModel:
    from sklearn.svm import SVC

    gamma = 1.0 / (images.shape[1] * images.var())  # scikit-learn's "scale"
    fitted = SVC(kernel="poly", degree=2, gamma=gamma, coef0=0.0).fit(images, is_first)
    return QuadraticModel(fitted.support_vectors_, gamma**2 * fitted.dual_coef_[0], fitted.intercept_[0])
