"""What a launch needs on this machine, checked one by one without starting anything."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from sfi_ray.errors import USER_FACING_ERRORS

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: ``ok``; ``note``, which limits what can be done; or ``fault``, which would stop a launch.
        text: What was found, with the mend of a fault.
    """

    name: str
    state: State
    text: str


def examine_machine(address: str | None = None) -> list[Check]:
    """Checks versions, devices, Ray, the cache, disks and data sets; writes nothing that stays.

    Args:
        address: Address of a Ray cluster to reach; None takes ``RAY_ADDRESS``, or checks what a Ray of this machine
            needs.
    """
    checks: list[Check] = []
    for name, look in (
        ("versions", _versions),
        ("devices", _devices),
        ("Ray", lambda: _ray(address or os.environ.get("RAY_ADDRESS") or None)),
        ("ports", _ports),
        ("cache", _cache),
        ("disk", _disk),
        ("data", _data),
    ):
        try:
            checks += look()
        except (*USER_FACING_ERRORS, OSError, ImportError) as error:
            checks.append(Check(name, "fault", " ".join(str(error).split())))
    return checks


def _versions() -> Iterator[Check]:
    names = ("sfi-ray", "torch", "torchvision", "ray", "pyarrow", "numpy")
    found = [f"{name} {importlib.metadata.version(name)}" for name in names]  # one that is missing is an ImportError
    yield Check("versions", "ok", ", ".join([f"python {platform.python_version()}", *found]))
    missing = [extra for extra in importlib.metadata.metadata("sfi-ray").get_all("Provides-Extra", []) if _lacks(extra)]
    if missing:
        yield Check("extras", "note", f"not installed: {', '.join(missing)}; uv sync --extra NAME installs one")


def _lacks(extra: str) -> bool:
    """Whether a package of an extra is not installed."""
    for requirement in map(Requirement, importlib.metadata.requires("sfi-ray") or ()):
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            try:
                importlib.metadata.version(requirement.name)
            except importlib.metadata.PackageNotFoundError:
                return True
    return False


def _devices() -> Iterator[Check]:
    import torch

    from sfi_ray.models import describe_device

    yield Check("CPU", "ok", describe_device(torch.device("cpu")))
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    yield Check("GPU", "ok" if names else "note", ", ".join(names) or "torch finds none: classifiers run on the CPU")


def _ray(address: str | None) -> Iterator[Check]:
    if address in (None, "local"):
        from sfi_ray.cluster.ray.needs import check_machine
        from sfi_ray.cluster.ray.private_folder import private_folder

        check_machine()
        with private_folder() as folder:
            place = folder.parent.parent
        yield Check("Ray", "ok", f"starts on this machine, in {place}")
        return
    from sfi_ray.cluster.ray.session import ray_session

    with ray_session(address, dashboard=False):
        yield Check("Ray", "ok", f"the cluster at {address} answers")


def _ports() -> Iterator[Check]:
    """Tells who listens where Ray's head usually does; a Ray of this machine takes free ports instead."""
    usual = {6379: "head", 8265: "dashboard"}
    taken = [f"{port} ({what})" for port, what in usual.items() if _is_taken(port)]
    text = f"in use: {', '.join(taken)}" if taken else f"free: {', '.join(f'{p} ({w})' for p, w in usual.items())}"
    yield Check("ports", "ok", text)


def _is_taken(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
        return True
    return False


def _cache() -> Iterator[Check]:
    from sfi_ray.cluster.training_cache import cache_folder, check_cache

    check_cache()
    folder = cache_folder()
    yield Check("cache", "ok", f"{folder}, {_gib(_size(folder))}")


def _size(folder: Path) -> int:
    """Returns the bytes of all files below a folder; one that disappears counts nothing."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(place, name).lstat().st_size
    return total


def _disk() -> Iterator[Check]:
    """Compares free room with what Ray's processes need for their logs, and with a usual run."""
    least, little = 8 << 20, 1 << 30
    for name, place in (("disk here", Path.cwd()), ("disk for Ray", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(place).free
        text = f"{_gib(free)} free at {place}"
        if free < least:
            yield Check(name, "fault", f"{text}, too little to launch; free some")
        else:
            yield Check(name, "note" if free < little else "ok", text)


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"


def _data() -> Iterator[Check]:
    from sfi_ray.data.sources import found_datasets

    found = found_datasets()
    yield Check("data", "ok", f"at hand: {', '.join(found)}")
