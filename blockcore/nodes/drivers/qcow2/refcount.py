# SPDX-License-Identifier: MIT
"""Allocation of clusters by their reference counts.

Callers of the coroutines hold the image's lock.  A new refcount block is written
at once, so that a full disk fails the request that needs the block.
"""

from __future__ import annotations

import errno
from array import array

from blockcore.nodes.drivers.qcow2.header import MAX_REFTABLE_BYTES
from blockcore.nodes.drivers.qcow2.image import REFBLOCK, REFTABLE
from blockcore.nodes.drivers.qcow2.refcount_table import RefcountTable
from blockcore.nodes.drivers.qcow2.tables import REFBLOCK_TYPE, Table
from blockcore.qapi.errnos import failure
from blockcore.qapi.names import BlkdebugEvent

MAX_REFCOUNT = 0xFFFF
"""The highest count of 16 bits, the only width that is supported."""

MAX_OFFSET = 1 << 56
"""The first offset, in bytes, that does not fit into a table's entry."""


class Refcounts(RefcountTable):
    """The refcount table and blocks of an image, with the allocation of free clusters."""

    def take_at_hint(self, count: int) -> int | None:
        """Take the `count` clusters that `allocate` would take, if one block in memory shows them.

        Returns the first cluster's number, or None if `allocate` has to search.
        The big lock is enough, also without the image's lock: there is no await, so no
        other allocation comes in between.  A caller without the image's lock must have
        found it free.
        """
        number = self._hint >> self.block_bits
        block = self.blocks.peek(self.table[number]) if number < len(self.table) else None
        if block is None:
            return None
        values, base = block.values, number << self.block_bits
        index = _free_from(values, self._hint - base)
        first, end = base + index, index + count
        if end > len(values) or first + count > MAX_OFFSET >> self.image.cluster_bits:
            return None
        if count > 1 and any(values[index:end]):
            return None
        if self.image.metadata.touches(first, count):
            return None
        self.image.event(BlkdebugEvent.REFBLOCK_ALLOC)
        for at in range(index, end):
            values[at] = 1
        self.blocks.mark(block)
        self._hint = first + count
        return first

    async def allocate(self, count: int) -> int:
        """Take `count` contiguous clusters, each with one reference, and return their offset.

        A missing refcount block is created first, which takes a cluster itself: the
        search is then repeated.  Raises OSError.
        """
        await self.image.check_metadata_write()
        at_once = self.take_at_hint(count)
        if at_once is not None:
            return at_once << self.image.cluster_bits
        first = await self._find(count)
        while (missing := self._missing_block(first, count)) is not None:
            await self._new_block(missing)
            first = await self._find(count)
        for cluster in range(first, first + count):
            if cluster in self.image.metadata:
                offset = cluster << self.image.cluster_bits
                what = self.image.metadata[cluster]
                await self.image.overlap(offset, self.image.cluster_size, what)
        await self._take(first, count)
        self._hint = first + count
        return first << self.image.cluster_bits

    async def _find(self, count: int) -> int:
        """Return the first cluster of the first run of `count` free clusters from the hint on.

        Clusters of missing blocks count as free.  `first` is the beginning of the
        run that is being examined, `at` the next cluster to look at.
        """
        per_block = 1 << self.block_bits
        first = at = self._hint
        while at - first < count:
            number, index = at >> self.block_bits, at & (per_block - 1)
            if at << self.image.cluster_bits >= MAX_OFFSET:
                raise failure(errno.EFBIG)
            block = await self.block(number)
            if block is None:
                at = (number + 1) << self.block_bits
                continue
            if at == first:
                index = _free_from(block.values, index)
                first = at = (number << self.block_bits) + index
                if index == per_block:
                    continue
            end = min(per_block, index + count - (at - first))
            used = next((i for i in range(index, end) if block.values[i]), None)
            at += (end if used is None else used) - index
            if used is not None:
                first = at = at + 1
        return first

    def _missing_block(self, first: int, count: int) -> int | None:
        for number in self._blocks_of(first, count):
            if number >= len(self.table) or not self.table[number]:
                return number
        return None

    def _blocks_of(self, first: int, count: int) -> range:
        return range(first >> self.block_bits, ((first + count - 1) >> self.block_bits) + 1)

    async def _take(self, first: int, count: int) -> None:
        """Count one reference for each cluster; on OSError, for none of them.

        All blocks are read and pinned before the first count changes.
        """
        pinned: list[Table] = []
        try:
            for number in self._blocks_of(first, count):
                self.image.event(BlkdebugEvent.REFBLOCK_ALLOC)
                block = await self.block(number)
                assert block is not None
                block.pins += 1
                pinned.append(block)
            base = first >> self.block_bits
            for cluster in range(first, first + count):
                block = pinned[(cluster >> self.block_bits) - base]
                block.values[cluster & ((1 << self.block_bits) - 1)] += 1
                self.blocks.mark(block)
        finally:
            for block in pinned:
                block.pins -= 1

    async def _new_block(self, number: int) -> None:
        """Create the block for a range of clusters, in the first cluster of this range.

        There the block counts its own reference, and no other block has to change.
        """
        if number >= len(self.table):
            await self._grow_table(number + 1)
            if self.table[number]:
                return
        self.image.event(BlkdebugEvent.REFBLOCK_ALLOC)
        cluster = number << self.block_bits
        if not cluster:
            await self.image.corrupt("Preventing invalid allocation of refcount block at offset 0")
        offset = cluster << self.image.cluster_bits
        if cluster in self.image.metadata:
            what = self.image.metadata[cluster]
            await self.image.overlap(offset, self.image.cluster_size, what)
        values = array(REFBLOCK_TYPE, bytes(self.image.cluster_size))
        values[0] = 1
        self.image.event(BlkdebugEvent.REFBLOCK_ALLOC_WRITE)
        await self.blocks.create(offset, values)
        self.image.claim(offset, 1, REFBLOCK)
        self.table[number] = offset
        self._changed.add(number)

    async def _grow_table(self, entries: int) -> None:
        """Move the refcount table to a place with room for at least `entries`.

        It grows by half at least, so that it moves seldom.  `write_back` writes the
        new table, and then the header that refers to it.
        """
        image, header = self.image, self.image.header
        self.image.event(BlkdebugEvent.REFTABLE_GROW)
        clusters = image.clusters(max(entries, len(self.table) * 3 // 2) * 8)
        if clusters << image.cluster_bits > MAX_REFTABLE_BYTES:
            raise failure(errno.EFBIG)
        if self._old_table is not None:
            await self.write_back()
        before = len(self.table)
        self.table.extend([0] * ((clusters << image.cluster_bits) // 8 - before))
        try:
            offset = await self.allocate(clusters)
        except Exception:
            self._shorten(before)
            raise
        self._old_table = header.reftable_offset, header.reftable_clusters
        header.reftable_offset, header.reftable_clusters = offset, clusters
        image.claim(offset, clusters, REFTABLE)
        await self.write_back()

    def _shorten(self, entries: int) -> None:
        """Undo the growth of the table in memory, and drop blocks of the removed entries."""
        for offset in self.table[entries:]:
            if offset:
                self.blocks.forget(offset)
                self.image.release(offset, 1)
        del self.table[entries:]
        self._changed = {index for index in self._changed if index < entries}


def _free_from(values: array[int], index: int) -> int:
    """Return the index of the first 0 from `index` on, or the length if there is none."""
    try:
        return values.index(0, index)
    except ValueError:
        return len(values)
