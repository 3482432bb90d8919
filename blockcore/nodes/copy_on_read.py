# SPDX-License-Identifier: MIT
"""Copy-on-read: data that a read gets from below an image is written to the image as well.

The caller has made the request serialising at cluster granularity (`tracking`),
so that no guest write comes between the read from below and the write to the
image: it would be overwritten with older data.
"""

from __future__ import annotations

from typing import Protocol

from blockcore.rules.ranges import align_down, align_up

MAX_BOUNCE_BYTES = 16 << 20
"""Largest piece, in bytes, that is read from below and written in one go: it bounds memory."""


class Keeper(Protocol):
    """The methods that are needed of the node; offsets in bytes, OSError for failed I/O."""

    size: int
    cluster_size: int | None

    async def is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Return whether the node itself has a range's beginning, and for how many bytes."""

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        """Fill `buf`, from the node or from below."""

    async def keep(self, offset: int, buf: memoryview) -> None:
        """Write data that a read returns already."""


async def keep_what_is_read(node: Keeper, offset: int, length: int, buf: memoryview | None) -> None:
    """Allocate all clusters that a range touches; with `buf`, also read the range into it.

    Raises OSError also if only the write fails, as QEMU does, although the guest's
    data could be read (bdrv_co_do_copy_on_readv).
    """
    if await _is_all_allocated(node, offset, length):
        if buf is not None:
            await node.do_pread(offset, buf)
        return
    cluster = node.cluster_size or 1
    end = offset + length
    at = align_down(offset, cluster)
    stop = min(align_up(end, cluster), node.size)
    while at < stop:
        allocated, there = await _allocation(node, at, stop - at)
        first, last = max(at, offset), min(at + there, end)
        if not allocated:
            data = memoryview(bytearray(there))
            await node.do_pread(at, data)
            await node.keep(at, data)
            if buf is not None and first < last:
                buf[first - offset : last - offset] = data[first - at : last - at]
        elif buf is not None and first < last:
            await node.do_pread(first, buf[first - offset : last - offset])
        at += there


async def _is_all_allocated(node: Keeper, offset: int, length: int) -> bool:
    allocated, there = await node.is_allocated(offset, length)
    return allocated and there == length


async def _allocation(node: Keeper, offset: int, length: int) -> tuple[bool, int]:
    """Return what `is_allocated` does, in pieces that fit into memory.

    On OSError the range counts as unallocated: the read that follows fails too, and
    its error is the better one.
    """
    try:
        allocated, there = await node.is_allocated(offset, length)
    except OSError:
        allocated, there = False, length
    return allocated, there if allocated else min(there, MAX_BOUNCE_BYTES)
