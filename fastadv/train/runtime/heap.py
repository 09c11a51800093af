"""The C library's heap: what a step frees, the next step takes again."""

import ctypes
import os
import sys

# Parameters of mallopt, as glibc's malloc.h numbers them.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Have what is freed kept for what is allocated next, in the whole process; return whether it will be.

    glibc gives large blocks back to the system as they are freed, so that on a CPU the activations of every step are
    new pages, each of which the system has to clear and to enter. Where the environment sets malloc, that stands; other
    C libraries and allocators are left alone.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # Nothing is trimmed, and no block is a mapping of its own, which would go as it is freed.
    return mallopt is not None and all([mallopt(_TRIM_THRESHOLD, -1), mallopt(_MMAP_MAX, 0)])
