"""What the C library does with memory that is freed (glibc; elsewhere nothing happens)."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# Names of parameters of mallopt, as in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
# What glibc itself ends at, once blocks of megabytes were freed.
_USUAL = (32 * 2**20, 64 * 2**20)


def give_back_freed() -> None:
    """Hand what the C library holds free back to the system, also what lies between blocks that are in use."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Within it, it keeps what is freed: large blocks would be mapped and cleared anew each time."""
    _set_thresholds(1 << 30, 1 << 30)
    try:
        yield
    finally:
        _set_thresholds(*_USUAL)
        give_back_freed()


def _set_thresholds(mapped: int, trimmed: int) -> None:
    """From how many bytes on a block is mapped on its own, and how many free ones at the end go back."""
    with suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, mapped)
        library.mallopt(_TRIM_THRESHOLD, trimmed)
