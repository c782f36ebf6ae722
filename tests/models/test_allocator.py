import subprocess
import sys

import pytest

CODE = """
import resource, sys
import torch
from sfi_ray.models.allocator import keep_freed_memory

torch.set_num_threads(1)
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)

def one_pass():
    held = [torch.ones(2 << 20) for _ in range(6)]  # 8 MiB each
    return sum(float(tensor[0]) for tensor in held)

for _ in range(3):
    one_pass()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    one_pass()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    return subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone takes it")
def test_a_pass_takes_the_memory_of_the_one_before_without_asking_the_kernel():
    kept = faults("keep")
    if kept.returncode == 3:
        pytest.skip("this C library keeps memory as it likes")
    # 48 MiB are 12,288 pages of 4 KiB, or 24 of 2 MiB.
    assert int(kept.stdout) < 24
    assert int(faults("leave").stdout) > 10 * 24
