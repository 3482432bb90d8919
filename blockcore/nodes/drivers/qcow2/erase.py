# SPDX-License-Identifier: MIT
"""Zeroes and holes: operations that change L2 entries instead of writing data."""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Iterator
from typing import NamedTuple

from blockcore.nodes.drivers.qcow2.allocation import Allocator
from blockcore.nodes.drivers.qcow2.entries import ENTRY_MASK, HAS_CLUSTER, ZERO, Kind, kind_of
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.write import Writer
from blockcore.nodes.drivers.qcow2.write_back import Discard
from blockcore.qapi.errnos import failure
from blockcore.rules.ranges import align_down, align_up

Change = Callable[[int], int]
"""A function that takes an L2 entry and returns the new one."""

ReadsAsZero = Callable[[int, int], Awaitable[bool]]
"""Tells whether block status shows that a guest range (offset, length) reads as zeroes."""


class Piece(NamedTuple):
    """A part of a request: part of one cluster, or whole clusters."""

    offset: int
    length: int
    whole: bool


def pieces(offset: int, length: int, cluster_size: int, end: int) -> Iterator[Piece]:
    """Split a request at clusters that it covers only in part, as QEMU's I/O core does.

    The image's last cluster counts as whole if the request reaches `end`, the
    image's length in bytes.
    """
    stop = offset + length
    head_end = min(stop, align_up(offset, cluster_size))
    if head_end > offset:
        yield Piece(offset, head_end - offset, False)
    whole_end = stop if stop == end else align_down(stop, cluster_size)
    if whole_end > head_end:
        yield Piece(head_end, whole_end - head_end, True)
    tail = max(whole_end, head_end)
    if stop > tail:
        yield Piece(tail, stop - tail, False)


class Eraser:
    """The operations that zero, discard and free guest clusters of an image."""

    def __init__(
        self,
        image: Image,
        mapping: Mapping,
        allocator: Allocator,
        writer: Writer,
        reads_as_zero: ReadsAsZero,
    ) -> None:
        self.image = image
        self.mapping = mapping
        self.allocator = allocator
        self.writer = writer
        self._reads_as_zero = reads_as_zero

    async def zero(
        self, offset: int, length: int, size: int, has_backing: bool, may_unmap: bool
    ) -> None:
        """Make a guest range read as zeroes (qcow2_co_pwrite_zeroes).

        `size` is the image's length in bytes.  Version 2 has no zero clusters:
        there zeroes are holes; with a backing file, OSError(ENOTSUP) lets the
        caller write zeroes as data.
        """
        if self.image.header.version < 3 and has_backing:
            raise failure(errno.ENOTSUP)
        for piece in pieces(offset, length, self.image.cluster_size, size):
            if piece.whole:
                await self.zero_clusters(piece.offset, piece.length, may_unmap)
            elif not await self._zero_part(piece, size, may_unmap):
                await self.writer.pwrite(piece.offset, memoryview(bytes(piece.length)))

    async def _zero_part(self, piece: Piece, size: int, may_unmap: bool) -> bool:
        """Zero the whole cluster of a piece if its other parts read as zeroes already.

        Returns False if they do not, or if the cluster holds data: then the caller
        writes zeroes into the piece.
        """
        start = piece.offset & ~self.image.cluster_mask
        stop = min(start + self.image.cluster_size, size)
        end = piece.offset + piece.length
        if not await self._reads_as_zero(start, piece.offset - start):
            return False
        if not await self._reads_as_zero(end, stop - end):
            return False
        return await self.zero_clusters(start, 1, may_unmap, spare_data=True)

    async def zero_clusters(
        self, offset: int, length: int, may_unmap: bool, *, spare_data: bool = False
    ) -> bool:
        """Zero the clusters that a range touches; with `may_unmap`, free their clusters.

        With `spare_data`, clusters that hold data are left alone, because data may
        have been written since the caller looked.  Returns whether all were zeroed.
        """
        version, spared = self.image.header.version, 0

        def change(entry: int) -> int:
            nonlocal spared
            kind = kind_of(entry)
            if spare_data and kind in (Kind.NORMAL, Kind.COMPRESSED):
                spared += 1
                return entry
            if version < 3:
                return 0
            unmap = kind is Kind.COMPRESSED or (may_unmap and kind in HAS_CLUSTER)
            return ZERO if unmap else entry | ZERO

        await self._change(offset, length, change, sparse=version < 3)
        return not spared

    async def discard(self, offset: int, length: int, size: int, has_backing: bool) -> None:
        """Discard the clusters that lie wholly in a range (qcow2_co_pdiscard).

        Raises OSError(ENOTSUP) for version 2 with a backing file: without zero
        clusters, the backing file's data would become visible.
        """
        version = self.image.header.version
        if version < 3 and has_backing:
            raise failure(errno.ENOTSUP)

        def change(entry: int) -> int:
            if not has_backing and kind_of(entry) not in HAS_CLUSTER:
                return entry
            return ZERO if version >= 3 else 0

        for piece in pieces(offset, length, self.image.cluster_size, size):
            if piece.whole:
                await self._change(piece.offset, piece.length, change, sparse=not has_backing)

    async def unmap(self, offset: int, length: int) -> None:
        """Make clusters unallocated, even over a backing file: for a shrinking image."""
        await self._change(offset, length, lambda _entry: 0, True, Discard.ALWAYS)

    async def _change(
        self,
        offset: int,
        length: int,
        change: Change,
        sparse: bool,
        why: Discard = Discard.REQUEST,
    ) -> None:
        """Change the entries of the clusters that a range touches, L2 table by L2 table.

        Allocations under way there are waited for.  With `sparse`, a missing L2
        table is skipped instead of created.
        """
        bits = self.image.cluster_bits
        at, last = offset >> bits, (offset + length - 1) >> bits
        while at <= last:
            number = at >> self.image.l2_bits
            stop = min(last, ((number + 1) << self.image.l2_bits) - 1)
            await self.allocator.in_flight.settled(at, stop)
            await self.image.lock.free()
            with self.image.lock.held():
                self.image.check_usable()
                if await self._change_table(number, at, stop, change, sparse, why):
                    at = stop + 1

    async def _change_table(
        self, number: int, first: int, last: int, change: Change, sparse: bool, why: Discard
    ) -> bool:
        """Change the entries of clusters `first` to `last`, which are in one table.

        Returns False, and changes nothing, if an allocation has begun there while
        the table was read.
        """
        allocator = self.allocator
        await allocator.write_back.limit()
        if sparse and not await self.mapping.table(number):
            return True
        table = await self.mapping.table_for_write(number)
        if allocator.in_flight.meets(first, last):
            return False
        base = first & (self.image.l2_entries - 1)
        for index in range(base, base + last - first + 1):
            old = table.values[index]
            new = change(old) & ENTRY_MASK
            if new == old:
                continue
            table.values[index] = new
            self.mapping.tables.mark(table)
            if kind_of(old) in HAS_CLUSTER and kind_of(new) not in HAS_CLUSTER:
                allocator.free_entry(old, why)
        return True
