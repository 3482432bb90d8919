# SPDX-License-Identifier: MIT
"""The system calls for files, in calls that run without the big lock."""

from __future__ import annotations

import errno
import mmap
import os

from blockcore.nodes.driver import Extent

DIRECT_ALIGNMENT = 4096
"""Alignment of requests with O_DIRECT, in bytes: the largest sector size of common disks.

Requests with a finer alignment go through the page cache, which is always correct.
"""


def read_all(fd: int, buf: memoryview, offset: int) -> None:
    """Fill `buf`; bytes beyond the end of the file are zeroes, as in a short raw image."""
    done = os.preadv(fd, (buf,), offset)
    while done < len(buf):
        more = os.preadv(fd, (buf[done:],), offset + done)
        if not more:
            buf[done:] = bytes(len(buf) - done)
            return
        done += more


def write_all(fd: int, buf: memoryview, offset: int) -> None:
    """Write all of `buf`; after a short write, write the rest, whose error is raised."""
    done = os.pwrite(fd, buf, offset)
    while done < len(buf):
        done += os.pwrite(fd, buf[done:], offset + done)


def aligned(offset: int, length: int) -> bool:
    """Tell whether a request can go to a descriptor with O_DIRECT."""
    return not (offset | length) % DIRECT_ALIGNMENT


def read_direct(fd: int, buf: memoryview, offset: int) -> None:
    """Fill `buf` through a page-aligned bounce buffer, because `buf` need not be aligned."""
    with mmap.mmap(-1, len(buf)) as bounce, memoryview(bounce) as view:
        read_all(fd, view, offset)
        buf[:] = view


def write_direct(fd: int, buf: memoryview, offset: int) -> None:
    """Write `buf` through a page-aligned bounce buffer."""
    with mmap.mmap(-1, len(buf)) as bounce, memoryview(bounce) as view:
        view[:] = buf
        write_all(fd, view, offset)


def seek_extent(fd: int, offset: int, length: int) -> Extent:
    """Return the extent of data or hole at `offset`, by SEEK_DATA and SEEK_HOLE (find_allocation).

    Beyond the end of the file there is a hole; a file system that cannot seek has
    data everywhere.
    """
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
