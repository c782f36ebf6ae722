"""What the C library does with memory that a network has let go of.

Every forward pass takes and frees the same few buffers. glibc gives freed memory of some megabytes back to the kernel
at once, which has to clear it, page by page, when the next pass takes it again. A small CNN spent half of its time so.
"""

from __future__ import annotations

import ctypes
import functools
import sys

#: Up to so much freed memory at the end of the heap is kept by the process.
KEPT_BYTES = 256 << 20
#: Buffers up to this size come from the heap, as glibc has it at most by itself; larger ones are given back when freed.
HEAP_BYTES = 32 << 20
# Names of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep up to `KEPT_BYTES` of freed memory, for the next pass; computes nothing else.

    Returns:
        Whether the C library took it; only glibc's does, that of most Linux systems.
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(set_option(_TRIM_THRESHOLD, KEPT_BYTES)) and bool(set_option(_MMAP_THRESHOLD, HEAP_BYTES))
