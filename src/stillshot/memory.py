"""What the C library does with memory that is freed (glibc; elsewhere nothing happens)."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

# Names of parameters of mallopt, as in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_BLOCK = 1 << 30


def give_back_freed() -> None:
    """Hand what the C library holds free back to the system, also what lies between blocks that are in use."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


@cache
def keep_freed() -> None:
    """Have it keep what is freed from now on: large blocks would be mapped and cleared anew each time."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        for parameter in (_MMAP_THRESHOLD, _TRIM_THRESHOLD):
            library.mallopt(parameter, _LARGEST_BLOCK)
