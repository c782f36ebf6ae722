"""The interface through which a launch reports its progress."""

from __future__ import annotations

from sfi_ray.cluster.driver import Tally
from sfi_ray.models import TrainingProgress


class Reporter:
    """Hears of the progress of a launch; this one prints nothing."""

    def log(self, text: str) -> None:
        """Takes one line for people."""

    def dashboard(self, url: str, token: str | None) -> None:
        """Takes the address of Ray's dashboard, and its token, which must not enter files, logs or pipes."""
        del token
        self.log(f"Ray dashboard: {url}")

    def training(self, classifier: str, progress: TrainingProgress) -> None:
        """Takes the progress of an epoch of training, twice a second at most."""

    def trained(self, classifier: str, epoch: int, num_epochs: int, accuracy: float) -> None:
        """Takes the end of an epoch of training, with the accuracy on held-out images in [0, 1]."""

    def progressed(self, tally: Tally, seconds_left: float | None) -> None:
        """Takes the progress of a search; `seconds_left` is None where it is unknown."""

    def close(self) -> None:
        """Ends the display."""
