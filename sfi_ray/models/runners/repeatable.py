"""Draws and threads of a training, fixed while it runs and put back afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Randomness:
    """A state of torch's global generators for one purpose, apart from all other draws.

    A seed in [0, 2**63) gives other draws for another purpose. Draws are made on the CPU and on `device`.
    """

    def __init__(self, device: torch.device, seed: int, purpose: str) -> None:
        self._device = device
        self._seed = int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]) >> 1
        self._states: dict[str, Tensor] | None = None

    @property
    def states(self) -> dict[str, Tensor]:
        """States of the generators after the last draw, uint8 on the CPU, by kind of device; none before it."""
        return dict(self._states or {})

    @states.setter
    def states(self, states: dict[str, Tensor]) -> None:
        self._states = dict(states)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Takes draws from this state during a block; afterwards the global generators are as before.

        The next block continues where the last one ended.
        """
        has_gpu = self._device.type == "cuda"
        with torch.random.fork_rng(devices=[self._device] if has_gpu else []):
            if self._states is None:
                # torch.manual_seed would reach devices that are not forked.
                torch.default_generator.manual_seed(self._seed)
                if has_gpu:
                    with torch.cuda.device(self._device):
                        torch.cuda.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._states["cpu"])
                if has_gpu:
                    torch.cuda.set_rng_state(self._states["cuda"], self._device)
            try:
                yield
            finally:
                self._states = {"cpu": torch.get_rng_state()}
                if has_gpu:
                    self._states["cuda"] = torch.cuda.get_rng_state(self._device)


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Runs torch's CPU operators in `number` threads; None leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
