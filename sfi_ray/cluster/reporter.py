"""Whom a launch tells how it is doing."""

from __future__ import annotations

from sfi_ray.cluster.driver import Tally
from sfi_ray.models import TrainingProgress


class Reporter:
    """Hears how a launch is doing; this one keeps quiet."""

    def log(self, text: str) -> None:
        """Takes one line for people."""

    def dashboard(self, url: str, token: str | None) -> None:
        """Takes where Ray's dashboard listens; the token that it asks for is not for files, logs or pipes."""
        del token
        self.log(f"Ray dashboard: {url}")

    def training(self, classifier: str, progress: TrainingProgress) -> None:
        """Takes note of how far an epoch of training is, twice a second at most."""

    def trained(self, classifier: str, epoch: int, num_epochs: int, accuracy: float) -> None:
        """Takes note of an epoch of training, with the accuracy on held-out images in [0, 1]."""

    def progressed(self, tally: Tally, seconds_left: float | None) -> None:
        """Takes note of a search that goes on; `seconds_left` is None where nobody can know."""

    def close(self) -> None:
        """Ends whatever is shown."""
