"""An image classifier of torchvision, with weights of its own or of a file."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from sfi_ray.errors import InputError
from sfi_ray.hub import local_path
from sfi_ray.models.source import Normalisation, Source
from sfi_ray.models.sources.downloads import impatient_sockets
from sfi_ray.models.weights import WEIGHT_SUFFIXES, read_state_dict
from sfi_ray.text import did_you_mean


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource(Source):
    """A classification network of torchvision, by the name it has there.

    `weights` is a member of its weights enum (``IMAGENET1K_V1``, ``DEFAULT``, with or without the enum's name), or a
    file. Preprocessing is that of the member, and for a file that of the default member unless the job gives mean
    and standard deviation. Without weights, it has random ones, which a fixed seed draws.
    """

    kind = "torchvision"
    weights_mend = "a member of its weights enum such as IMAGENET1K_V1 or DEFAULT, a file, or null for random weights"
    is_known_by_name = True

    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Builds the network with fresh weights."""
        models = _models()
        self._require_known()
        self._require_shape(input_shape)
        options = {}
        if self.what in ("googlenet", "inception_v3"):
            # What torchvision's own constructors pass beside the weights. Auxiliary heads serve training only.
            options = {"transform_input": True, "aux_logits": False, "init_weights": False}
        network: nn.Module = models.get_model(self.what, weights=None, num_classes=num_classes, **options)
        return network

    def load(self, input_shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Normalisation | None]:
        """Builds the network with its weights; random ones are the same at every launch."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            return super().load(input_shape, num_classes)

    def files(self) -> tuple[str, ...]:
        """Returns the path of the weights, unless they are a member of the enum."""
        return super().files() if self._is_file else ()

    def state(self) -> Mapping[str, Tensor] | None:
        """Reads the weights from the file, or from torch's cache, into which they are downloaded once."""
        if self.weights is None:
            return None
        state = read_state_dict(local_path(str(self.weights))) if self._is_file else self._downloaded(self._member())
        auxiliary = re.compile(r"^(?:.*\.)?(?:aux1|aux2|AuxLogits)\.")
        # Old files of DenseNet number the layers of a block as no module can be named any more.
        old_densenet = re.compile(
            r"^(.*denselayer\d+\.(?:norm|relu|conv))\.((?:[12])\.(?:weight|bias|running_mean|running_var))$"
        )
        return {old_densenet.sub(r"\1\2", name): tensor for name, tensor in state.items() if not auxiliary.match(name)}

    def default_normalisation(self) -> Normalisation | None:
        """Returns mean and standard deviation of the weights' own preprocessing; None for random weights."""
        if self.weights is None:
            return None
        transforms = self._member().transforms()
        return tuple(transforms.mean), tuple(transforms.std)

    @property
    def _is_file(self) -> bool:
        weights = self.weights or ""
        return weights.lower().endswith(WEIGHT_SUFFIXES) or any(mark in weights for mark in "/\\")

    def _require_known(self) -> None:
        names = _models().list_models(module=_models())
        if self.what not in names:
            suggestion = did_you_mean(self.what, names, 0.5) or f"; it has {', '.join(names)}"
            raise InputError(f"torchvision has no classification network '{self.what}'{suggestion}")

    def _require_shape(self, input_shape: tuple[int, int, int]) -> None:
        """Refuses images of another size than the preprocessing crops to, unless the job gives mean and std."""
        if self.weights is None or (self._is_file and self.mean is not None):
            return
        (size,) = set(self._member().transforms().crop_size)
        wanted = (3, size, size)
        if tuple(input_shape) != wanted:
            own = " With a file of your own for other images, give `mean` and `std`." if self._is_file else ""
            raise InputError(
                f"torchvision's '{self.what}' takes images of shape {wanted}, the data set has {tuple(input_shape)}; "
                f"give the data set that shape, such as {{name: imagenet, shape: [3, {size}, {size}]}}.{own}"
            )

    def _member(self) -> Any:
        """Returns the member of the weights enum that is named; for a file, the default one."""
        self._require_known()
        members = _models().get_model_weights(self.what)
        if self._is_file:
            return members.DEFAULT
        assert self.weights is not None
        enum_name, _, member = self.weights.rpartition(".")
        if enum_name not in ("", members.__name__) or member not in members.__members__:
            raise InputError(
                f"torchvision's '{self.what}' has no weights '{self.weights}'; it has "
                f"{', '.join(members.__members__)}; or give a file, which ends in {', '.join(WEIGHT_SUFFIXES)}"
            )
        return members[member]

    def _downloaded(self, member: Any) -> Mapping[str, Tensor]:
        file = Path(urlparse(member.url).path).name
        place = Path(torch.hub.get_dir()) / "checkpoints" / file
        try:
            with impatient_sockets():
                state: dict[str, Tensor] = member.get_state_dict(
                    progress=False, check_hash=True, map_location="cpu", weights_only=True
                )
        # URLError is an OSError; torch raises RuntimeError for a wrong checksum.
        except (OSError, RuntimeError, ValueError, EOFError, HTTPException, pickle.UnpicklingError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            fault = "cannot be read" if place.exists() else f"is not there, and its download from {member.url} failed"
            raise InputError(
                f"torchvision's weights {member}: {place} {fault} ({reason}); put the right file there, or give it as "
                f"`weights: path/to/{file}`"
            ) from error
        return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _models() -> Any:
    from torchvision import models  # two seconds to import

    return models
