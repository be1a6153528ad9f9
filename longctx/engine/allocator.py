"""What the C library keeps of freed memory."""

from __future__ import annotations

import ctypes
import sys


def give_back() -> None:
    """Return it to the system, where the C library is glibc; others keep less, and have no such
    call. Takes milliseconds."""
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
