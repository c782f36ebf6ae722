"""The program that injects faults, scenario by scenario: `uv run pytest -m slow tests/cluster/test_chaos.py`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks/chaos.py"
# A package of the sources has no benchmarks.
PROGRAM = CHAOS.read_text() if CHAOS.exists() else ""
SCENARIOS = re.findall(r'^def (\w+)\(stage\):\n    """', PROGRAM, flags=re.MULTILINE)
NEEDS_MOUNT = ("disk_full", "read_only")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_fault_is_survived(scenario):
    if scenario in NEEDS_MOUNT and os.geteuid() != 0:
        pytest.skip("only root mounts file systems")
    command = [sys.executable, str(CHAOS), "--only", scenario]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
