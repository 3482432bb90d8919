# SPDX-License-Identifier: MIT
"""What is asked of the system for a file; called without the big lock."""

from __future__ import annotations

import errno
import mmap
import os

from blockcore.nodes.driver import Extent

DIRECT_ALIGNMENT = 4096
"""What O_DIRECT is given: every file system and disk in use accepts it."""


def read_all(fd: int, buf: memoryview, offset: int) -> None:
    """Fill `buf`; beyond the end of the file there are zeroes, as for a short raw image."""
    done = os.preadv(fd, (buf,), offset)
    while done < len(buf):
        more = os.preadv(fd, (buf[done:],), offset + done)
        if not more:
            buf[done:] = bytes(len(buf) - done)
            return
        done += more


def write_all(fd: int, buf: memoryview, offset: int) -> None:
    """Write all of `buf`; a short write goes on, and its error is the outcome."""
    done = os.pwrite(fd, buf, offset)
    while done < len(buf):
        done += os.pwrite(fd, buf[done:], offset + done)


def aligned(offset: int, length: int) -> bool:
    return not (offset | length) % DIRECT_ALIGNMENT


def read_direct(fd: int, buf: memoryview, offset: int) -> None:
    """Through a page-aligned bounce buffer: the guest's is not aligned."""
    with mmap.mmap(-1, len(buf)) as bounce, memoryview(bounce) as view:
        read_all(fd, view, offset)
        buf[:] = view


def write_direct(fd: int, buf: memoryview, offset: int) -> None:
    with mmap.mmap(-1, len(buf)) as bounce, memoryview(bounce) as view:
        view[:] = buf
        write_all(fd, view, offset)


def seek_extent(fd: int, offset: int, length: int) -> Extent:
    """Data or hole at `offset`, by SEEK_DATA and SEEK_HOLE (find_allocation)."""
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return Extent(length, data=False, zero=True)
        if exc.errno == errno.EINVAL:
            return Extent(length, data=True, zero=False)
        raise
    if data > offset:
        return Extent(data - offset, data=False, zero=True)
    return Extent(os.lseek(fd, offset, os.SEEK_HOLE) - offset, data=True, zero=False)
