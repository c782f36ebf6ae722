"""What the C library does with memory that a network has let go of.

Every forward pass takes and frees the same few buffers. glibc gives freed memory of some megabytes back to the kernel
at once, which has to clear it, page by page, when the next pass takes it again. A small CNN spent half of its time so.
"""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory(kept_bytes: int = 256 << 20, heap_bytes: int = 32 << 20) -> bool:
    """Lets this process keep freed memory for the next pass; computes nothing else.

    Args:
        kept_bytes: Freed memory at the end of the heap that the process keeps at most.
        heap_bytes: Size up to which buffers come from the heap, by default the most that glibc itself allows; larger
            ones are given back when freed.

    Returns:
        Whether the C library took it; only glibc's does, that of most Linux systems.
    """
    if sys.platform != "linux":
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # names of glibc's malloc.h
    return bool(set_option(trim_threshold, kept_bytes)) and bool(set_option(mmap_threshold, heap_bytes))
