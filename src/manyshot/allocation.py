"""How the C library of Linux gives memory back to the system, in a process of ours.

By itself it asks the system for every large block, and gives it back when it is freed. The next
step of a training then gets fresh pages, each of which the system clears when it is first used. How
much that slows a step of a small network is measured by `python -m benchmarks.speed.allocation`.
"""

from __future__ import annotations

import ctypes
import os

_MMAP_THRESHOLD, _TRIM_THRESHOLD = -3, -1  # their numbers in malloc.h
_LARGEST_BLOCK = 32 * 2**20
"""Blocks of this size and above are of the system's still; the library allows no more."""
_LARGEST_REST = 2**31 - 1
"""Freed bytes at the end of the heap beyond these go back."""


def hold_freed_memory() -> bool:
    """Has this process, and those it starts, keep what they free, to use it again.

    The most memory that is in use stays what it was; what is freed in between is given back later.
    Nothing changes where the C library is another than glibc, or whoever started the process has
    set it up by `MALLOC_...` or `GLIBC_TUNABLES`. Only commands do so, whose process is ours.

    Returns:
        Whether anything was changed.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - which no other library has
    except (AttributeError, OSError, TypeError):
        return False
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
    library.mallopt(_TRIM_THRESHOLD, _LARGEST_REST)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(_LARGEST_BLOCK)  # for processes to come
    os.environ["MALLOC_TRIM_THRESHOLD_"] = str(_LARGEST_REST)
    return True
