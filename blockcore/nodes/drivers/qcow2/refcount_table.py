# SPDX-License-Identifier: MIT
"""The refcount table and its blocks: reading, counting down, and writing back.

Callers of the coroutines hold the image's lock.  Counts change in memory;
`write_back` writes the blocks.

Memory: `MAX_BLOCKS_BYTES` of blocks, and the refcount table (8 MiB at most).
"""

from __future__ import annotations

import struct
from array import array

from blockcore.nodes.drivers.qcow2.entries import ENTRY_MASK
from blockcore.nodes.drivers.qcow2.image import REFBLOCK, REFTABLE, Image, hexadecimal
from blockcore.nodes.drivers.qcow2.tables import (
    REFBLOCK_TYPE,
    Table,
    TableCache,
    from_disk,
    to_disk,
)
from blockcore.qapi.names import BlkdebugEvent

MAX_BLOCKS_BYTES = 4 << 20
"""Size of the cache of refcount blocks.

With 64 KiB clusters it covers 128 GiB of file; beyond that, blocks are read again.
"""

_NOT_RESERVED = bytes(byte & 0xFE for byte in range(256))
"""Translation of the last byte but one of an entry, of which bit 0 is reserved.

Together with the last byte these are the 9 reserved bits (REFT_OFFSET_MASK).
"""

_REFTABLE_AT = 48
"""Offset of the header's fields for the refcount table's offset and number of clusters."""


class RefcountTable:
    """The reference counts of an image's clusters; `Refcounts` adds the allocation.

    `_hint` is the cluster at which the search for free clusters begins.
    """

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
        """Read the refcount table, and clear the reserved bits of its entries."""
        header = self.image.header
        data = bytearray(header.reftable_clusters << self.image.cluster_bits)
        self.image.event(BlkdebugEvent.REFTABLE_LOAD)
        await self.image.read(header.reftable_offset, memoryview(data))
        # Strides of bytes, because a loop over a million entries would hold the big lock longer.
        data[7::8] = bytes(len(data) // 8)
        data[6::8] = data[6::8].translate(_NOT_RESERVED)
        self.table = from_disk("Q", data)

    def claim_all(self) -> None:
        """Enter table and blocks into the image's metadata; runs without the big lock."""
        header = self.image.header
        self.image.claim(header.reftable_offset, header.reftable_clusters, REFTABLE)
        self.image.claim_each(self.table, ENTRY_MASK, REFBLOCK)

    async def drop(self, cluster: int) -> bool:
        """Remove one reference to a cluster, and return whether it was the last one.

        A count that is 0 already stays 0: the image was damaged.
        """
        self.image.event(BlkdebugEvent.REFBLOCK_ALLOC)
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
        """Remove blocks that count nothing but themselves from the table, in the file as well.

        Returns the clusters of removed blocks whose reference another block counts.
        """
        # If writing fails, `write_back` writes the old entries again.
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
        """Whether `write_back` has anything to write."""
        return bool(self._changed or self._old_table or self.blocks.changed)

    async def write_back(self) -> None:
        """Write changed blocks, then the entries of the table that refer to them.

        On OSError, everything that was not written stays marked as changed.
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
        """Write a table that has moved, then the header, and free the old place."""
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
        """Return block `number` of the table, or None if it has none: its counts are all 0.

        If the cache exceeds its limit, changed blocks are written first, so that
        they can be dropped.  Raises OSError.
        """
        offset = self.table[number] if number < len(self.table) else 0
        if not offset:
            return None
        if offset & self.image.cluster_mask:
            await self.image.corrupt(
                f"Refblock offset {hexadecimal(offset)} unaligned"
                f" (reftable index: {hexadecimal(number)})"
            )
        if len(self.blocks) > self.blocks.limit:
            await self.blocks.store(self.blocks.snapshot())
            self.blocks.trim()
        return await self.blocks.get(offset)
