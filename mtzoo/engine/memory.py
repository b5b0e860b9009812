"""Host memory that a training process keeps from step to step."""

from __future__ import annotations

import ctypes

# From malloc.h of glibc.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def keep_freed() -> bool:
    """Let this process keep the memory of freed tensors for its next ones.

    glibc maps a large block anew at each allocation and unmaps it when it is freed, so on the CPU
    every large tensor of every step begins with page faults and zeroed pages. Kept blocks are
    reused instead; the process holds its peak until it ends.

    Returns:
        Whether the C library took the setting; others than glibc have none.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))
