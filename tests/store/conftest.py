"""Findings, folders and file systems for the tests of the store."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfi_ray.store.folder import RunFolder
from sfi_ray.store.schema import Provenance
from sfi_ray.types import Background, Cell, Finding, Pixel, StopReason, TracePoint

PROVENANCE = Provenance(
    run="my run",
    dataset="digits",
    classifier_fingerprint="0123456789abcdef",
    attack="de",
    attack_settings='{"generations": 10}',
    height=8,
    width=8,
    channels=1,
    device="cpu (x86_64)",
    runtime='{"micro_batch": 128}',
    versions='{"torch": "2"}',
)


def make_cell(index: int, **changes: object) -> Cell:
    values: dict[str, object] = {
        "index": index,
        "cell_id": f"{index * 2654435761 % 2**64:016x}{index:016x}",
        "classifier": "mlp",
        "background": Background("black", (0,)),
        "target_class": index % 10,
        "target_name": f"class {index % 10}",
        "k": 3,
        "replicate": index // 10,
        "seed": 2**63 - 1 - index,
        **changes,
    }
    return Cell(**values)  # type: ignore[arg-type]


def make_finding(index: int, *, fooled: bool = True, confidence: float = 0.95, **changes: object) -> Finding:
    values: dict[str, object] = {
        "cell": make_cell(index),
        "fooled": fooled,
        "confidence": confidence,
        "background_confidence": 0.125,
        "predicted_class": index % 10,
        "predicted_confidence": confidence,
        "pixels": (Pixel(0, 7, (255,)), Pixel(index % 8, 3, (index % 255 + 1,))),
        "evaluations": 100 + index,
        "generations": 10,
        "stop_reason": StopReason.FOOLED if fooled else StopReason.BUDGET,
        "trace": (TracePoint(10, 0.25), TracePoint(100 + index, 0.5)),
        "seconds": 0.5,
        **changes,
    }
    return Finding(**values)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    mount = shutil.which("mount")
    if not sys.platform.startswith("linux") or mount is None:
        pytest.skip("needs Linux and its mount command")
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "tmpfs", place], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.fixture
def make_read_only(small_disk: Path) -> Callable[[], None]:
    """Makes the small disk read-only, even for root."""
    return lambda: subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True) and None
