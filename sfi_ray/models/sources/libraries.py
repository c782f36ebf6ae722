"""Networks that a library knows by name, with its own weights."""

from __future__ import annotations

import importlib.util

from sfi_ray.errors import InputError
from sfi_ray.text import did_you_mean


def named_network(name: str) -> dict[str, str]:
    """Returns the keys of a job for a network of torchvision, otherwise of timm, with its default weights.

    Args:
        name: Its name there; torchvision's wins where both have it.

    Raises:
        InputError: Neither has it.
    """
    from torchvision import models  # two seconds to import

    known = models.list_models(module=models)
    if name in known:
        return {"torchvision": name, "weights": "DEFAULT"}
    missing = " (timm is not installed: uv sync --extra timm)"
    if importlib.util.find_spec("timm"):
        import timm

        if timm.is_model(name):
            return {"timm": name}
        known, missing = [*known, *timm.list_models()], ""
    raise InputError(f"neither torchvision nor timm has a network '{name}'{missing}{did_you_mean(name, known)}")
