"""What the C library does with memory that a network has let go of.

Every forward pass takes and frees the same few buffers. glibc gives freed memory of some megabytes back to the kernel
at once, which has to clear it, page by page, when the next pass takes it again. A small CNN spent half of its time so.
"""

from __future__ import annotations

import ctypes
import functools
import sys

#: Up to so much freed memory is kept by the process.
KEPT_BYTES = 256 << 20
# Names of glibc's malloc.h, and the largest threshold that all of its versions take.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_ALWAYS_TAKEN = 32 << 20


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
    is_kept = bool(set_option(_TRIM_THRESHOLD, KEPT_BYTES))
    # Larger ones are refused by some versions.
    return is_kept and any(set_option(_MMAP_THRESHOLD, size) for size in (KEPT_BYTES, _ALWAYS_TAKEN))
