"""The questions that a job asks every kind of attack before it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from sfi_ray.errors import InputError
from sfi_ray.models import Classifier


class AttackKind(BaseModel):
    """Settings of one kind of attack; a kind overrides the checks that it needs."""

    #: Whether the kind needs more of a network than its outputs, so that a check precedes the training.
    looks_inside: ClassVar[bool] = False
    #: Channels of an image at most; more would make too many corners of the colour cube to try each.
    most_channels: ClassVar[int] = 16
    #: Whether classes share a search, so that the choice of classes decides the result of each.
    shares_classes: ClassVar[bool] = False

    @property
    def needs_inside(self) -> bool:
        """Whether the kind needs gradients or layers, which a black box lacks."""
        return self.looks_inside

    @property
    def shares_ks(self) -> bool:
        """Whether a k begins with the images of smaller ones, so that the choice of k decides results."""
        return False

    @property
    def starts_from(self) -> str | None:
        """Folder or URI of the earlier run whose images cells begin with, if any."""
        return None

    def identity(self) -> dict[str, Any]:
        """Returns the settings that decide the result of a cell, as plain data."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def pack(self) -> bytes | None:
        """Returns the code that travels to the process of the attack, if any."""
        return None

    def unpack(self, packed: bytes) -> None:
        """Takes the packed code, in the process that runs the attack."""

    def code_place(self) -> Path | None:
        """Returns the file or the package's folder of the user's own code; None where all code is installed.

        Raises:
            InputError: The code is missing.
        """
        return None

    @property
    def code_digest(self) -> str | None:
        """A hash of the user's own code that decides results, if any."""
        return None

    def check(self) -> None:
        """Makes the checks that reading the settings leaves out.

        Raises:
            InputError: The settings name something that does not exist here.
        """

    def check_channels(self, channels: int) -> None:
        """Checks that the attack works on images of so many channels.

        Raises:
            InputError: It does not.
        """
        if self.most_channels < channels:
            raise InputError(
                f"attack: this kind takes images of at most {self.most_channels} channels, and the data set has "
                f"{channels}; take de, jde, sparse_rs or nevergrad"
            )

    def check_classifier(self, classifier: Classifier) -> None:
        """Checks that a classifier, trained or not, has what the attack needs.

        Raises:
            InputError: It lacks something; the message names the alternatives.
        """
        if self.needs_inside:
            mend = (
                "take an attack without gradients, such as de, sparse_rs, or map_elites with gradient_share 0 "
                "(audit --no-gradients)"
            )
            classifier.require_inside("attack", mend)
