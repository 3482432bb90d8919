# SPDX-License-Identifier: MIT
"""Translation of guest offsets to clusters of the file: L1 table and a cache of L2 tables.

`cached` has, by L1 index, the entries of every L2 table in memory.  Requests
look there without the image's lock, and requests on the shortcut even on other
threads without the big lock.  One entry is a complete mapping and changes in one
step, so a single read of it is always consistent.

Memory: the L1 table (32 MiB at most) and `l2_cache_size` bytes of L2 tables.
"""

from __future__ import annotations

import struct
from array import array
from weakref import proxy

from blockcore.nodes.drivers.qcow2.entries import COPIED, OFFSET_MASK, READS_AS_ZERO, Kind, kind_of
from blockcore.nodes.drivers.qcow2.image import ACTIVE_L1, ACTIVE_L2, Image, hexadecimal
from blockcore.nodes.drivers.qcow2.refcount import Refcounts
from blockcore.nodes.drivers.qcow2.tables import (
    L1_TYPE,
    L2_TYPE,
    Table,
    TableCache,
    read_table,
    to_disk,
)
from blockcore.qapi.names import BlkdebugEvent
from blockcore.qapi.record import dataclass

DEFAULT_L2_CACHE_SIZE = 32 << 20
"""QEMU's default; with 64 KiB clusters it covers 256 GiB of guest data."""

MAX_CACHE_SIZE = 1 << 30
"""Largest cache of L2 tables in bytes; larger wishes are reduced to it, to bound memory."""

_L1_AT = 36
"""Offset of the header's fields for the L1 table's number of entries and its offset."""


@dataclass(slots=True)
class Run:
    """A guest range of `length` bytes whose clusters have one kind.

    For NORMAL and ZERO_ALLOC, `host` is its offset in the file, where it is
    contiguous.  `entry` is the L2 entry of the first cluster.
    """

    kind: Kind
    length: int
    host: int
    entry: int


class Mapping:
    """The L1 and L2 tables of an image."""

    def __init__(self, image: Image, refcounts: Refcounts, l2_cache_size: int) -> None:
        self.image = image
        self.refcounts = refcounts
        self.l1: array[int] = array(L1_TYPE)
        self.l1_changed: set[int] = set()
        self.cached: dict[int, array[int]] = {}
        # With a strong reference the tables would stay in a cycle after the close, until the
        # garbage collector runs.
        me = proxy(self)
        self.tables = TableCache(
            image,
            L2_TYPE,
            max(2, l2_cache_size >> image.cluster_bits),
            BlkdebugEvent.L2_LOAD,
            BlkdebugEvent.L2_UPDATE,
            lambda offset: me._dropped(offset),
        )
        self._users: dict[int, list[int]] = {}

    async def load(self) -> None:
        """Read the L1 table."""
        header = self.image.header
        self.l1 = await read_table(self.image, L1_TYPE, header.l1_offset, header.l1_entries * 8)

    def claim_all(self) -> None:
        """Enter the L1 and L2 tables into the image's metadata; runs without the big lock."""
        header = self.image.header
        self.image.claim(header.l1_offset, self.image.clusters(header.l1_entries * 8), ACTIVE_L1)
        self.image.claim_each(self.l1, OFFSET_MASK, ACTIVE_L2)

    async def run(self, offset: int, length: int) -> Run:
        """Return the longest run at the beginning of a guest range, within one L2 table.

        Takes the image's lock only if a table has to be read.  Raises OSError.
        """
        image = self.image
        number = offset >> image.table_shift
        length = min(length, ((number + 1) << image.table_shift) - offset)
        if number >= len(self.l1) or not self.l1[number] & OFFSET_MASK:
            return Run(Kind.UNALLOCATED, length, 0, 0)
        values = self.cached.get(number)
        if values is None:
            await image.lock.free()
            with image.lock.held():
                table = await self.table(number)
            if table is None:
                return Run(Kind.UNALLOCATED, length, 0, 0)
            values = table.values
        run = self.run_in(values, offset, length)
        if run.kind is not Kind.UNALLOCATED:
            await self._check(run, offset)
        return run

    def known_hole(self, offset: int) -> bool:
        """Tell whether a table in memory shows that a guest offset is unallocated.

        False means that `run` has to look.
        """
        values = self.cached.get(offset >> self.image.table_shift)
        if values is None:
            return False
        return not values[(offset >> self.image.cluster_bits) & (self.image.l2_entries - 1)]

    def run_in(self, values: array[int], offset: int, length: int) -> Run:
        """Return the run at `offset` by the entries of its L2 table.

        A run ends where an entry has other flags or is not the next cluster of the file.
        """
        image = self.image
        size = image.cluster_size
        index = (offset >> image.cluster_bits) & (image.l2_entries - 1)
        entry = values[index]
        kind = kind_of(entry)
        within = offset & image.cluster_mask
        done = size - within
        if kind is Kind.COMPRESSED:
            return Run(kind, min(length, done), 0, entry)
        step = size if entry & OFFSET_MASK else 0
        expected = entry
        while done < length:
            index += 1
            expected += step
            if values[index] != expected:
                break
            done += size
        host = (entry & OFFSET_MASK) + within if step else 0
        return Run(kind, min(length, done), host, entry)

    async def _check(self, run: Run, offset: int) -> None:
        """Raise OSError if an L2 entry is corrupt by QEMU's rules (qcow2_get_host_offset)."""
        image = self.image
        if run.kind is Kind.COMPRESSED:
            return
        if run.kind in READS_AS_ZERO and image.header.version < 3:
            await image.corrupt(f"Zero cluster entry found in pre-v3 image ({self._place(offset)})")
        host = run.entry & OFFSET_MASK
        if host & image.cluster_mask:
            await image.corrupt(
                f"Cluster allocation offset {hexadecimal(host)} unaligned ({self._place(offset)})"
            )

    def _place(self, offset: int) -> str:
        image = self.image
        l2_offset = self.l1[offset >> image.table_shift] & OFFSET_MASK
        index = (offset >> image.cluster_bits) & (image.l2_entries - 1)
        return f"L2 offset: {hexadecimal(l2_offset)}, L2 index: {hexadecimal(index)}"

    async def table(self, number: int) -> Table | None:
        """Return the L2 table of L1 entry `number`, or None if there is none.

        The caller holds the image's lock.  Raises OSError.
        """
        offset = self.l1[number] & OFFSET_MASK if number < len(self.l1) else 0
        if not offset:
            return None
        if offset & self.image.cluster_mask:
            await self.image.corrupt(
                f"L2 table offset {hexadecimal(offset)} unaligned"
                f" (L1 index: {hexadecimal(number)})"
            )
        table = await self.tables.get(offset)
        self._remember(number, table)
        return table

    def own_table(self, number: int) -> Table | None:
        """Return the table that `table_for_write` would, if it is in memory and not shared."""
        entry = self.l1[number] if number in self.cached else 0
        return self.tables.peek(entry & OFFSET_MASK) if entry & COPIED else None

    async def table_for_write(self, number: int) -> Table:
        """Return the L2 table of L1 entry `number` for changes; create or copy it if needed.

        The caller holds the image's lock.  As in QEMU a new table is written at
        once, so that a full disk fails the request that needs the table.
        """
        await self.image.check_metadata_write()
        old_entry = self.l1[number]
        old = self.tables.peek(old_entry & OFFSET_MASK) if number in self.cached else None
        if old is None:
            old = await self.table(number)
        if old is not None and old_entry & COPIED:
            return old
        self.image.event(BlkdebugEvent.CLUSTER_ALLOC)
        offset = await self.refcounts.allocate(1)
        try:
            table = await self._new_table(number, offset, old)
        except Exception:
            self.l1[number] = old_entry
            self.l1_changed.add(number)
            self.tables.forget(offset)
            self.image.release(offset, 1)
            self.image.event(BlkdebugEvent.CLUSTER_FREE)
            await self.refcounts.drop(offset >> self.image.cluster_bits)
            raise
        if old is not None:
            self.image.event(BlkdebugEvent.CLUSTER_FREE)
            await self.refcounts.drop(old.offset >> self.image.cluster_bits)
        self._remember(number, table)
        return table

    async def _new_table(self, number: int, offset: int, old: Table | None) -> Table:
        """Write a table, empty or a copy of `old`, then the L1 entry for it (l2_allocate).

        Refcounts go to the file before the table, and the table before the L1
        entry, with a flush each: a crash in between leaks a cluster at worst.
        """
        image = self.image
        await self.refcounts.write_back()
        await image.file.flush()
        if old is None:
            values = array(L2_TYPE, bytes(image.cluster_size))
        else:
            image.event(BlkdebugEvent.L2_ALLOC_COW_READ)
            values = old.values[:]
        image.event(BlkdebugEvent.L2_ALLOC_WRITE)
        image.event(BlkdebugEvent.L2_UPDATE)
        table = await self.tables.create(offset, values)
        await image.file.flush()
        image.claim(offset, 1, ACTIVE_L2)
        self.l1[number] = offset | COPIED
        self.l1_changed.add(number)
        await self.write_l1()
        return table

    def _remember(self, number: int, table: Table) -> None:
        # A damaged image may have several L1 entries for one table: all of them go from `cached`
        # when the table is dropped.
        self.cached[number] = table.values
        users = self._users.setdefault(table.offset, [])
        if number not in users:
            users.append(number)

    def _dropped(self, offset: int) -> None:
        for number in self._users.pop(offset, ()):
            self.cached.pop(number, None)

    def forget(self, number: int) -> None:
        """Clear L1 entry `number` in memory, and drop its table."""
        offset = self.l1[number] & OFFSET_MASK
        self.cached.pop(number, None)
        self._users.pop(offset, None)
        self.tables.forget(offset)
        self.image.release(offset, 1)
        self.l1[number] = 0

    async def write_l1(self) -> None:
        """Write the changed L1 entries; on OSError, the rest stays marked as changed."""
        for number in sorted(self.l1_changed):
            self.image.event(BlkdebugEvent.L1_UPDATE)
            entry = struct.pack(">Q", self.l1[number])
            self.l1_changed.discard(number)
            try:
                await self.image.file.pwrite(
                    self.image.header.l1_offset + number * 8, memoryview(entry)
                )
            except Exception:
                self.l1_changed.add(number)
                raise

    async def grow_l1(self, entries: int) -> tuple[int, int] | None:
        """Move the L1 table to a place with room for `entries` (qcow2_grow_l1_table).

        The caller holds the image's lock.  Returns the old place, as offset in
        bytes and number of clusters, for the caller to free; None if there was
        room.  The header changes after the new table was flushed.
        """
        if entries <= len(self.l1):
            return None
        image, header = self.image, self.image.header
        image.event(BlkdebugEvent.L1_GROW_ALLOC_TABLE)
        count = image.clusters(entries * 8)
        image.event(BlkdebugEvent.CLUSTER_ALLOC)
        offset = await self.refcounts.allocate(count)
        values = self.l1 + array(L1_TYPE, bytes((entries - len(self.l1)) * 8))
        try:
            await self.refcounts.write_back()
            image.event(BlkdebugEvent.L1_GROW_WRITE_TABLE)
            await image.file.pwrite(offset, memoryview(to_disk(values)))
            await image.file.flush()
            image.event(BlkdebugEvent.L1_GROW_ACTIVATE_TABLE)
            await image.write_header(_L1_AT, struct.pack(">IQ", entries, offset))
        except Exception:
            for number in range(count):
                await self.refcounts.drop((offset >> image.cluster_bits) + number)
            raise
        old = header.l1_offset, image.clusters(header.l1_entries * 8)
        image.release(*old)
        image.claim(offset, count, ACTIVE_L1)
        header.l1_entries, header.l1_offset = entries, offset
        self.l1 = values
        return old
