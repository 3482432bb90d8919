# SPDX-License-Identifier: MIT
"""Copy-on-read: what a read finds below an image is written to the image as well.

The caller has made the request serialising at cluster granularity
(`tracking`), so that no guest write comes between the read from below and the
write to the top.
"""

from __future__ import annotations

from typing import Protocol

from blockcore.rules.ranges import align_down, align_up

MAX_BOUNCE_BYTES = 16 << 20
"""What is read from below and kept in one go."""


class Keeper(Protocol):
    """What is needed of the node; bytes, and OSError for failed I/O."""

    size: int
    cluster_size: int | None

    async def is_allocated(self, offset: int, length: int) -> tuple[bool, int]:
        """Whether the beginning of a range is in the node itself, and how much of it."""

    async def do_pread(self, offset: int, buf: memoryview) -> None:
        """Read from wherever the data is."""

    async def keep(self, offset: int, buf: memoryview) -> None:
        """Write what a read gives anyway."""


async def keep_what_is_read(node: Keeper, offset: int, length: int, buf: memoryview | None) -> None:
    """Allocate all clusters that a range touches; with `buf`, read the range into it too.

    A write that fails is the error of the whole (bdrv_co_do_copy_on_readv):
    without it the guest would get its data, but what was asked for is both.
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
    """As `is_allocated`; if that cannot be found out, the read will fail with a reason."""
    try:
        allocated, there = await node.is_allocated(offset, length)
    except OSError:
        allocated, there = False, length
    return allocated, there if allocated else min(there, MAX_BOUNCE_BYTES)
