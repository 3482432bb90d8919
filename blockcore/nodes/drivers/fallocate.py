# SPDX-License-Identifier: MIT
"""fallocate(2) with its modes, which Python's standard library lacks."""

from __future__ import annotations

import ctypes

from blockcore.qapi.errnos import failure

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_fallocate.restype = ctypes.c_int


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Change the allocation of `length` bytes at `offset`.

    Raises OSError; ENOTSUP means that the file system does not support the mode.
    """
    if _fallocate(fd, mode, offset, length) != 0:
        error = ctypes.get_errno()
        raise failure(error)
