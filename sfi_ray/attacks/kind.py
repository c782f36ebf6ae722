"""What every kind of attack can be asked before it runs."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from pydantic import BaseModel

from sfi_ray.models import Classifier


class AttackKind(BaseModel):
    """Settings of one kind of attack; a kind overrides what it has to check."""

    #: Whether the kind needs more of a network than what it returns, so that each is checked before it is trained.
    looks_inside: ClassVar[bool] = False
    #: Whether classes are searched together, so that which ones a job names decides what is found for each.
    shares_classes: ClassVar[bool] = False

    @property
    def shares_ks(self) -> bool:
        """Whether a k begins with what smaller ones found, so that which k a job names decides results, too."""
        return False

    @property
    def starts_from(self) -> str | None:
        """Folder or URI of the earlier run whose images cells begin with; None where they begin with nothing."""
        return None

    def identity(self) -> dict[str, Any]:
        """Returns what of the settings decides what is found for a cell, as plain data."""
        plain: dict[str, Any] = json.loads(self.model_dump_json())
        return plain

    def pack(self) -> bytes | None:
        """Returns code that travels to where the attack runs; None where there is none."""
        return None

    def unpack(self, packed: bytes) -> None:
        """Takes the code that `pack` has packed, in the process that runs the attack."""

    @property
    def code_digest(self) -> str | None:
        """A hash of code of the user's own that decides what is found; None where there is none."""
        return None

    def check(self) -> None:
        """Checks what reading the settings did not.

        Raises:
            InputError: They name what does not exist here.
        """

    def check_classifier(self, classifier: Classifier) -> None:
        """Checks that a classifier, trained or not, has what the attack needs of it.

        Args:
            classifier: An attacked classifier.

        Raises:
            InputError: It lacks something; the message says what it has.
        """
