import subprocess
import sys

import pytest

CODE = """
import resource
import sys

import torch
from sfi_ray.models.runners.allocator import keep_freed_memory

torch.set_num_threads(1)
if not keep_freed_memory():
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone takes it")
def test_a_pass_takes_the_memory_of_the_one_before_without_asking_the_kernel():
    kept = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    if kept.returncode == 3:
        pytest.skip("this C library keeps memory as it likes")
    # Ten times 48 MiB are 122,880 pages of 4 KiB, or 240 of 2 MiB. Left alone, glibc asks for all of them or for none,
    # as its heap happens to end.
    assert int(kept.stdout) < 24
