"""The interface of all kinds of sources."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from sfi_ray.hub import local_path
from sfi_ray.models.weights import load_into, read_state_dict

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of values in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """The origin of a classifier's network, as a job describes it.

    Attributes:
        what: Name, import path or file, depending on the kind.
        weights: File of weights, or another value of the kind; None where the job has none.
        mean: Mean of each channel, where the job gives it.
        std: Standard deviation of each channel, where the job gives it.
        content: Bytes of the file that the network is built from, if they are known already.
    """

    what: str
    weights: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    content: bytes | None = None

    kind: ClassVar[str]
    """The key of a job that names it."""
    weights_fault: ClassVar[str | None] = None
    """Why a job must not give `weights`, if it must not."""
    weights_mend: ClassVar[str | None] = None
    """A description of `weights`, if a job must give them."""
    normalisation_fault: ClassVar[str | None] = None
    """Why a job must not give `mean` and `std`, if it must not."""
    is_trainable: ClassVar[bool] = False
    """Whether a job can train it."""
    is_known_by_name: ClassVar[bool] = False
    """Whether `what` gives the same layers in any process; its weights then travel without code."""
    runs_code: ClassVar[bool] = False
    """Whether building it imports code that `what` names, so that the author of `what` chooses that code."""
    asks_server: ClassVar[bool] = False
    """Whether it sends images to the address that `what` names."""
    settings_keys: ClassVar[tuple[str, ...]] = ()
    """Further keys of a job that belong to this kind; they are arguments of the same names."""
    suffix: ClassVar[str | None] = None
    """Ending of the file that the network is built from, if there is one."""

    def describe(self) -> str:
        """Says in a few words what it is, for the run's record."""
        return f"{self.kind}: {self.what}" + (f", {self.weights}" if self.weights else "")

    @abstractmethod
    def build_module(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Builds the network for images ``(C, H, W)`` with its initial weights, downloading nothing.

        Raises:
            InputError: If there is no such network, or it does not take such images.
        """

    def build_empty(self, input_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Builds the network without weights (torch's meta device): no memory, no draw from any generator."""
        with torch.device("meta"):
            return self.build_module(input_shape, num_classes)

    def check(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        """Checks that the network exists and takes such images.

        Raises:
            InputError: As `build_module`.
        """
        build = self.build_empty if self.is_known_by_name else self.build_module
        build(input_shape, num_classes)

    @property
    def needs_training(self) -> bool:
        """Whether nothing gives it trained weights."""
        return False

    def state(self) -> Mapping[str, Tensor] | None:
        """Reads the weights, downloading them where `weights` asks for it; None where the built network has its own.

        Raises:
            InputError: If they cannot be read.
        """
        return read_state_dict(local_path(self.weights)) if self.weights else None

    def default_normalisation(self) -> Normalisation | None:
        """Returns the normalisation of images where the job has none; None for no normalisation."""
        return None

    def load(self, input_shape: tuple[int, int, int], num_classes: int) -> tuple[nn.Module, Normalisation | None]:
        """Builds the network with its trained weights; returns it and the normalisation of its images, None for none.

        Raises:
            InputError: As `build_module` and `state`, or if the weights do not fit.
        """
        module = self.build_module(input_shape, num_classes)
        self.load_state(module)
        return module, self.given_normalisation or self.default_normalisation()

    def load_state(self, module: nn.Module) -> None:
        """Loads the trained weights into what `build_module` built."""
        state = self.state()
        if state is not None:
            load_into(module, state, self.weights or self.describe())

    @property
    def given_normalisation(self) -> Normalisation | None:
        """The normalisation of images in the job."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    def files(self) -> tuple[str, ...]:
        """Returns the paths of the files that it reads, as the job says them."""
        if self.suffix is not None:
            return (self.what,)
        return () if self.weights is None else (self.weights,)

    def code(self) -> Path | None:
        """Returns the file or the package's folder of the user's code that builds it; None where all is installed.

        Raises:
            InputError: If the code is not there.
        """
        return None

    def read_content(self) -> bytes | None:
        """Reads the file that the network is built from; None where there is none."""
        return None

    def with_content(self, content: bytes) -> Self:
        """Returns the source with the file it is built from in hand."""
        return replace(self, content=content)

    def pickling(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context in which the network can be pickled for another process."""
        return contextlib.nullcontext()
