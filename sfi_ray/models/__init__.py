"""Image classifiers, from [0, 1] images to log-probabilities."""

from __future__ import annotations

from sfi_ray.models.card import ModelCard, training_key
from sfi_ray.models.classifier import Classifier
from sfi_ray.models.examination import is_same_network
from sfi_ray.models.features import SECOND_TO_LAST
from sfi_ray.models.fingerprint import fingerprint_module
from sfi_ray.models.natural import NaturalAccuracy, measure_natural, remarks_on
from sfi_ray.models.outputs import Outputs
from sfi_ray.models.payload import ClassifierPayload
from sfi_ray.models.runners.device import describe_device
from sfi_ray.models.runners.openvino_runner import openvino_version
from sfi_ray.models.runners.precision import WantedPrecision, stated_precision, training_precision
from sfi_ray.models.runners.runtime import RuntimeConfig, default_micro_batch
from sfi_ray.models.training.checkpoint import Checkpoint
from sfi_ray.models.training.evaluation import Evaluation, evaluate
from sfi_ray.models.training.learner import DivergenceError
from sfi_ray.models.training.loop import TrainedModel, train_classifier
from sfi_ray.models.training.progress import EpochRecord, TrainingEvent, TrainingNote, TrainingProgress
from sfi_ray.models.training_settings import TRAINING_PRESETS, TrainingSettings
from sfi_ray.models.tuning.autotune import TuningRequest, tune
from sfi_ray.models.tuning.choose import Choice
from sfi_ray.models.weights import check_weights, load_into, read_card, read_state_dict, save_weights, weights_bytes
from sfi_ray.models.zoo import ARCHITECTURES, build

__all__ = [
    "ARCHITECTURES",
    "SECOND_TO_LAST",
    "TRAINING_PRESETS",
    "Checkpoint",
    "Choice",
    "Classifier",
    "ClassifierPayload",
    "DivergenceError",
    "EpochRecord",
    "Evaluation",
    "ModelCard",
    "NaturalAccuracy",
    "Outputs",
    "RuntimeConfig",
    "TrainedModel",
    "TrainingEvent",
    "TrainingNote",
    "TrainingProgress",
    "TrainingSettings",
    "TuningRequest",
    "WantedPrecision",
    "build",
    "check_weights",
    "default_micro_batch",
    "describe_device",
    "evaluate",
    "fingerprint_module",
    "is_same_network",
    "load_into",
    "measure_natural",
    "openvino_version",
    "read_card",
    "read_state_dict",
    "remarks_on",
    "save_weights",
    "stated_precision",
    "train_classifier",
    "training_key",
    "training_precision",
    "tune",
    "weights_bytes",
]
