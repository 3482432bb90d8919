# SPDX-License-Identifier: MIT
"""The C library's heap: one for all threads, so that free memory goes back to the system.

By default glibc gives threads heaps of their own, up to eight per processor.
Free memory at the top of such a heap is kept, up to twice the size of the
largest piece ever freed, and `malloc_trim` does not give it back.  After one
client whose 16 workers had written 8 MiB at a time, that was 130 MiB.  One heap
costs no time here: nearly all allocation happens under the interpreter lock,
and nbdkit's workers keep their buffers.

C libraries other than glibc have neither function, and give memory back by
themselves.
"""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8
"""mallopt's parameter for the number of heaps (<malloc.h>)."""

_libc = ctypes.CDLL(None)


def be_one() -> None:
    """Limit the C library to one heap; to be called before there are threads."""
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_ARENA_MAX, 1)


def trim() -> None:
    """Give free memory back to the system; takes about a millisecond."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(ctypes.c_size_t(0))
