"""Reference counts, and the allocation of clusters by them.

All methods that are coroutines need the image's lock held.  Counts change in
memory; the blocks are written by `write_back`, a new block also at once, so
that a full disk is noticed by the request that needs it.

Memory: `MAX_BLOCKS_BYTES` of blocks, and the refcount table (8 MiB at most).
"""

from __future__ import annotations

import errno
import os
import struct
from array import array

from blockcore.nodes.qcow2.header import MAX_REFTABLE_BYTES
from blockcore.nodes.qcow2.image import REFBLOCK, REFTABLE, Image
from blockcore.nodes.qcow2.tables import (
    REFBLOCK_TYPE,
    Table,
    TableCache,
    from_disk,
    to_disk,
)
from blockcore.qapi import BlkdebugEvent

MAX_BLOCKS_BYTES = 4 << 20
MAX_REFCOUNT = 0xFFFF
MAX_OFFSET = 1 << 56
"""No entry of a table can express an offset from here on."""

_REFTABLE_AT = 48
"""Where the header has the refcount table's offset and number of clusters."""


class Refcounts:
    """The refcount table and blocks of an image."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.table: array[int] = array("Q")
        self.block_bits = image.cluster_bits - 1
        self.blocks = TableCache(
            image,
            REFBLOCK_TYPE,
            max(4, MAX_BLOCKS_BYTES >> image.cluster_bits),
            BlkdebugEvent.REFBLOCK_LOAD,
            BlkdebugEvent.REFBLOCK_UPDATE_PART,
        )
        self._hint = 0
        self._changed: set[int] = set()
        self._old_table: tuple[int, int] | None = None

    async def load(self) -> None:
        """Read the refcount table."""
        header = self.image.header
        data = bytearray(header.reftable_clusters << self.image.cluster_bits)
        self.image.event(BlkdebugEvent.REFTABLE_LOAD)
        await self.image.read(header.reftable_offset, memoryview(data))
        self.table = from_disk("Q", data)

    def claim_all(self) -> None:
        """Enter table and blocks into the image's metadata."""
        header = self.image.header
        self.image.claim(header.reftable_offset, header.reftable_clusters, REFTABLE)
        for entry in self.table:
            if entry and not entry & self.image.cluster_mask:
                self.image.claim(entry, 1, REFBLOCK)

    async def allocate(self, count: int) -> int:
        """Take `count` contiguous clusters, each with one reference; gives their offset."""
        await self.image.check_metadata_write()
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

    async def drop(self, cluster: int) -> bool:
        """Remove one reference to a cluster; gives whether it was the last."""
        block = await self.block(cluster >> self.block_bits)
        index = cluster & ((1 << self.block_bits) - 1)
        if block is None or not block.values[index]:
            return False
        block.values[index] -= 1
        self.blocks.mark(block)
        if block.values[index]:
            return False
        self._hint = min(self._hint, cluster)
        return True

    async def remove_blocks(self, numbers: list[int]) -> list[int]:
        """Take blocks that count nothing but themselves out of the table, at once.

        Gives the clusters of those that other blocks still count.
        """
        # Should writing fail, the entries are as before, and are written again.
        self._changed.update(numbers)
        for number in numbers:
            place = self.image.header.reftable_offset + number * 8
            await self.image.file.pwrite(place, memoryview(bytes(8)))
        if numbers:
            await self.image.file.flush()
        self._changed.difference_update(numbers)
        counted = []
        for number in numbers:
            offset, self.table[number] = self.table[number], 0
            self.blocks.forget(offset)
            self.image.release(offset, 1)
            self._hint = min(self._hint, number << self.block_bits)
            cluster = offset >> self.image.cluster_bits
            if cluster >> self.block_bits != number:
                counted.append(cluster)
        return counted

    @property
    def dirty(self) -> bool:
        return bool(self._changed or self._old_table or self.blocks.changed)

    async def write_back(self) -> None:
        """Bring blocks, then the table that points to them, to the file.

        Nothing is lost by an error: what is not written yet stays dirty.
        """
        while self.blocks.changed:
            await self.blocks.store(self.blocks.snapshot())
        if self._old_table is not None:
            await self._switch_table()
        elif self._changed:
            await self.image.file.flush()
            await self._write_entries()

    async def _write_entries(self) -> None:
        offset = self.image.header.reftable_offset
        for index in sorted(self._changed):
            self.image.event(BlkdebugEvent.REFBLOCK_ALLOC_HOOKUP)
            entry = struct.pack(">Q", self.table[index])
            await self.image.file.pwrite(offset + index * 8, memoryview(entry))
            self._changed.discard(index)

    async def _switch_table(self) -> None:
        """Write a table that has moved, then say so in the header; the old place is free."""
        assert self._old_table is not None
        image, header = self.image, self.image.header
        self.image.event(BlkdebugEvent.REFBLOCK_ALLOC_WRITE_TABLE)
        await image.file.pwrite(header.reftable_offset, memoryview(to_disk(self.table)))
        await image.file.flush()
        image.event(BlkdebugEvent.REFBLOCK_ALLOC_SWITCH_TABLE)
        place = struct.pack(">QI", header.reftable_offset, header.reftable_clusters)
        await image.write_header(_REFTABLE_AT, place)
        old_offset, old_count = self._old_table
        self._changed.clear()
        self._old_table = None
        image.release(old_offset, old_count)
        first = old_offset >> image.cluster_bits
        for cluster in range(first, first + old_count):
            await self.drop(cluster)

    async def block(self, number: int) -> Table | None:
        """The block that has the counts of a range of clusters; None if they are all 0."""
        offset = self.table[number] if number < len(self.table) else 0
        if not offset:
            return None
        if offset & self.image.cluster_mask:
            await self.image.corrupt(
                f"Refblock offset {offset:#x} unaligned (reftable index: {number:#x})"
            )
        return await self.blocks.get(offset)

    async def _find(self, count: int) -> int:
        """The first run of `count` clusters without references, from the hint on."""
        per_block = 1 << self.block_bits
        first = at = self._hint
        while at - first < count:
            number, index = at >> self.block_bits, at & (per_block - 1)
            if at << self.image.cluster_bits >= MAX_OFFSET:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
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
        """Count one reference for each cluster; all of them or, on an error, none."""
        pinned: list[Table] = []
        try:
            for number in self._blocks_of(first, count):
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
        """Make a block for a range that has none, in the first cluster of that range."""
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
        """Move the refcount table to where it has room for at least `entries`."""
        image, header = self.image, self.image.header
        self.image.event(BlkdebugEvent.REFTABLE_GROW)
        clusters = image.clusters(max(entries, len(self.table) * 3 // 2) * 8)
        if clusters << image.cluster_bits > MAX_REFTABLE_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        if self._old_table is not None:
            await self.write_back()
        before = len(self.table)
        self.table.extend([0] * ((clusters << image.cluster_bits) // 8 - before))
        try:
            offset = await self.allocate(clusters)
        except OSError:
            self._shorten(before)
            raise
        self._old_table = header.reftable_offset, header.reftable_clusters
        header.reftable_offset, header.reftable_clusters = offset, clusters
        image.claim(offset, clusters, REFTABLE)
        await self.write_back()

    def _shorten(self, entries: int) -> None:
        """Undo the growth of the table in memory, with the blocks it was for."""
        for offset in self.table[entries:]:
            if offset:
                self.blocks.forget(offset)
                self.image.release(offset, 1)
        del self.table[entries:]
        self._changed = {index for index in self._changed if index < entries}


def _free_from(values: array[int], index: int) -> int:
    """The first unused entry from `index` on; the length if there is none."""
    try:
        return values.index(0, index)
    except ValueError:
        return len(values)
