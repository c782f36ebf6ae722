"""Lets the C library keep memory that a network has freed.

Every forward pass takes and frees the same few buffers. glibc returns freed memory of some megabytes to the kernel at
once, which has to clear it page by page when the next pass takes it again. A small CNN spent half of its time so.
"""

from __future__ import annotations

import ctypes
import functools
import sys


@functools.cache
def keep_freed_memory() -> bool:
    """Lets this process keep freed memory for the next pass; computes nothing else.

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
    # The process keeps so much at the end of the heap. Larger buffers come from outside the heap; glibc allows no more.
    kept_bytes, heap_bytes = 256 << 20, 32 << 20
    return bool(set_option(trim_threshold, kept_bytes)) and bool(set_option(mmap_threshold, heap_bytes))
