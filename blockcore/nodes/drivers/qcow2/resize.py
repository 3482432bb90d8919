# SPDX-License-Identifier: MIT
"""Changes of an image's length (qcow2_co_truncate)."""

from __future__ import annotations

import struct

from blockcore.nodes.drivers.qcow2.entries import OFFSET_MASK
from blockcore.nodes.drivers.qcow2.erase import Eraser
from blockcore.nodes.drivers.qcow2.header import MAX_L1_BYTES, SECTOR, l1_entries_for
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.shrink import cut_file
from blockcore.nodes.drivers.qcow2.write_back import Discard, WriteBack
from blockcore.qapi.names import BlkdebugEvent, QmpError

_SIZE_AT = 24
"""Offset of the header's field for the length."""


class Resizer:
    """The operations that grow and shrink an image."""

    def __init__(
        self, image: Image, mapping: Mapping, write_back: WriteBack, eraser: Eraser
    ) -> None:
        self.image = image
        self.mapping = mapping
        self.write_back = write_back
        self.eraser = eraser

    async def resize(self, old: int, size: int, backing_size: int) -> None:
        """Change the length from `old` to `size` bytes; raise QmpError or OSError.

        `backing_size` is the backing file's length, or 0.  If the backing file is
        longer than `old`, the new part is zeroed: its data must not become visible.
        The header gets the new length last, so a crash leaves the old length.
        """
        if size % SECTOR:
            raise QmpError(f"The new size must be a multiple of {SECTOR}")
        entries = l1_entries_for(size, self.image.cluster_bits)
        if entries * 8 > MAX_L1_BYTES:
            raise QmpError("Failed to grow the L1 table: File too large")
        if size < old:
            await self._shrink(old, size, entries)
        else:
            await self._grow(entries)
        if backing_size > old and size > old:
            await self._zero_new(old, size)
        await self._flush()
        if size < old:
            await self.image.lock.free()
            with self.image.lock.held():
                await cut_file(self.image, self.write_back)
        await self.image.write_header(_SIZE_AT, struct.pack(">Q", size))
        self.image.header.size = size

    async def _grow(self, entries: int) -> None:
        await self.image.lock.free()
        with self.image.lock.held():
            old = await self.mapping.grow_l1(entries)
            if old is not None:
                offset, count = old
                self.write_back.give_back(offset >> self.image.cluster_bits, count)

    async def _shrink(self, old: int, size: int, entries: int) -> None:
        """Free the guest clusters beyond `size`, then the L2 tables beyond `entries`.

        The flush in between keeps L1 entries in the file until their tables are empty there.
        """
        start = (size + self.image.cluster_mask) & ~self.image.cluster_mask
        if start < old:
            await self.eraser.unmap(start, old - start)
        await self._flush()
        await self.image.lock.free()
        with self.image.lock.held():
            self.image.event(BlkdebugEvent.L1_SHRINK_WRITE_TABLE)
            for number in range(entries, len(self.mapping.l1)):
                offset = self.mapping.l1[number] & OFFSET_MASK
                if offset:
                    self.mapping.forget(number)
                    self.mapping.l1_changed.add(number)
                    self.write_back.free(offset >> self.image.cluster_bits, 1, Discard.ALWAYS)
            self.image.event(BlkdebugEvent.L1_SHRINK_FREE_L2_CLUSTERS)

    async def _zero_new(self, old: int, size: int) -> None:
        start = (old + self.image.cluster_mask) & ~self.image.cluster_mask
        if start < size and self.image.header.version >= 3:
            await self.eraser.zero_clusters(start, size - start, may_unmap=False)
        if start > old:
            await self.eraser.writer.pwrite(old, memoryview(bytes(min(start, size) - old)))

    async def _flush(self) -> None:
        await self.image.lock.free()
        with self.image.lock.held():
            await self.write_back.run()
        await self.image.file.flush()
