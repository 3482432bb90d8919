# SPDX-License-Identifier: MIT
"""Free memory goes back to the system.

By default threads get heaps of their own from the C library, up to eight for
each processor.  What is free at the top of such a heap stays there, as much as
twice the largest piece that was ever freed, and `malloc_trim` leaves it: after
one client whose 16 workers had written 8 MiB at a time, 130 MiB.  One heap costs
nothing here, since whoever allocates holds the interpreter lock, or is a worker
of nbdkit that has its buffer already.

Other C libraries than glibc have neither, and give memory back themselves.
"""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8

_libc = ctypes.CDLL(None)


def be_one() -> None:
    """Let there be one heap only; to be called before there are threads."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_ARENA_MAX, 1)


def trim() -> None:
    """Give back what is free; takes about a millisecond."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))
