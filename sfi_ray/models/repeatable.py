"""Draws and threads of a training, fixed while it runs and put back afterwards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(device: torch.device, seed: int, purpose: str) -> Iterator[None]:
    """Starts torch's global generators at `seed` and `purpose`; afterwards they are as before.

    Args:
        device: Where draws are made, besides the CPU.
        seed: In [0, 2**63).
        purpose: Another purpose gives other draws.
    """
    own_seed = int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:8]) >> 1
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would reach devices that are not forked.
        torch.default_generator.manual_seed(own_seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(own_seed)
        yield


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Runs torch's CPU operators in `number` threads; None leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
