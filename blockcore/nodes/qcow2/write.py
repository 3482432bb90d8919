"""Guest writes: in place where the cluster is there, otherwise to new clusters."""

from __future__ import annotations

import errno
from array import array
from dataclasses import dataclass

from blockcore.effects import Until
from blockcore.nodes.qcow2.entries import (
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    Kind,
    compressed_range,
    kind_of,
    writable_in_place,
)
from blockcore.nodes.qcow2.image import Image
from blockcore.nodes.qcow2.mapping import Mapping
from blockcore.nodes.qcow2.read import Reader
from blockcore.nodes.qcow2.tables import Table
from blockcore.nodes.qcow2.write_back import Discard, WriteBack
from blockcore.qapi import BlkdebugEvent

MERGE_BYTES = 256 << 10
"""New clusters up to this size are written in one go together with what is copied."""


@dataclass(slots=True, eq=False)
class Allocation:
    """A write under way to new clusters: guest clusters `first` to `last` get those at `host`.

    `table` has their entries from `index` on.  `fresh` is false if they had
    the clusters already (zero clusters with a cluster).
    """

    first: int
    last: int
    host: int
    table: Table
    index: int
    fresh: bool

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class InFlight:
    """The allocations under way (QEMU's cluster_allocs), by guest cluster."""

    def __init__(self) -> None:
        self._all: list[Allocation] = []

    def meets(self, first: int, last: int) -> bool:
        """Whether one of them concerns guest clusters `first` to `last`."""
        return any(one.first <= last and first <= one.last for one in self._all)

    async def settled(self, first: int, last: int) -> None:
        """Wait until none of them does (handle_dependencies)."""
        while self.meets(first, last):
            await Until(lambda: not self.meets(first, last))

    def begin(self, allocation: Allocation) -> None:
        self._all.append(allocation)

    def end(self, allocation: Allocation) -> None:
        self._all.remove(allocation)


class Writer:
    """Writes guest data to an image."""

    def __init__(
        self, image: Image, mapping: Mapping, write_back: WriteBack, reader: Reader
    ) -> None:
        self.image = image
        self.mapping = mapping
        self.write_back = write_back
        self.in_flight = InFlight()
        self._reader = reader

    async def pwrite(self, offset: int, buf: memoryview) -> None:
        """Write `buf` at guest `offset`, as many clusters at a time as belong together."""
        bits = self.image.cluster_bits
        while buf:
            await self.in_flight.settled(offset >> bits, (offset + len(buf) - 1) >> bits)
            run = await self.mapping.run(offset, len(buf))
            if run.kind is Kind.NORMAL and run.entry & COPIED:
                await self.image.check_data_write(run.host, run.length)
                self.image.event(BlkdebugEvent.WRITE_AIO)
                await self.image.file.pwrite(run.host, buf[: run.length])
                done = run.length
            else:
                done = await self._write_new(offset, buf)
            offset += done
            buf = buf[done:]

    async def _write_new(self, offset: int, buf: memoryview) -> int:
        """Write the beginning of `buf` to new clusters; gives how much, 0 to look again."""
        await self.image.lock.free()
        with self.image.lock.held():
            self.image.check_usable()
            allocation = await self._allocate(offset, len(buf))
        if allocation is None:
            return 0
        end = (allocation.last + 1) << self.image.cluster_bits
        done = min(len(buf), end - offset)
        linked = False
        try:
            await self._write_clusters(allocation, offset, buf[:done])
            self._link(allocation)
            linked = True
        finally:
            allocation.table.pins -= 1
            self.in_flight.end(allocation)
            if not linked and allocation.fresh:
                first = allocation.host >> self.image.cluster_bits
                self.write_back.give_back(first, allocation.count)
        return done

    async def _allocate(self, offset: int, length: int) -> Allocation | None:
        """Register clusters for the beginning of a write; None if that is not needed any more.

        The lock is held.
        """
        image = self.image
        first = offset >> image.cluster_bits
        table = await self.mapping.table_for_write(offset >> image.table_shift)
        table.pins += 1
        registered = False
        try:
            await self.write_back.limit()
            await self.write_back.take_back()
            index = first & (image.l2_entries - 1)
            wanted = ((offset + length - 1) >> image.cluster_bits) - first + 1
            count, host = _alike(table.values, index, wanted, image.cluster_size)
            if not count or self.in_flight.meets(first, first + count - 1):
                return None
            fresh = not host
            if fresh:
                image.event(BlkdebugEvent.CLUSTER_ALLOC)
                host = await self.write_back.refcounts.allocate(count)
            else:
                await image.check_data_write(host, count << image.cluster_bits)
            if self.in_flight.meets(first, first + count - 1):
                raise AssertionError("the lock was held")
            allocation = Allocation(first, first + count - 1, host, table, index, fresh)
            self.in_flight.begin(allocation)
            registered = True
            return allocation
        finally:
            if not registered:
                table.pins -= 1

    async def _write_clusters(self, new: Allocation, offset: int, buf: memoryview) -> None:
        """Fill the new clusters: with `buf`, and around it with what was there (perform_cow)."""
        image = self.image
        start = new.first << image.cluster_bits
        head = offset - start
        length = new.count << image.cluster_bits
        tail = length - head - len(buf)
        if not head and not tail or await self._zeroed(new, start, head, tail):
            image.event(BlkdebugEvent.WRITE_AIO)
            await image.file.pwrite(new.host + head, buf)
            return
        if length <= MERGE_BYTES:
            whole = memoryview(bytearray(length))
            await self._old_data(start, whole[:head])
            await self._old_data(offset + len(buf), whole[length - tail :])
            whole[head : length - tail] = buf
            image.event(BlkdebugEvent.WRITE_AIO)
            image.event(BlkdebugEvent.COW_WRITE)
            await image.file.pwrite(new.host, whole)
            return
        for at, size in ((start, head), (offset + len(buf), tail)):
            if size:
                part = memoryview(bytearray(size))
                await self._old_data(at, part)
                image.event(BlkdebugEvent.COW_WRITE)
                await image.file.pwrite(new.host + at - start, part)
        image.event(BlkdebugEvent.WRITE_AIO)
        await image.file.pwrite(new.host + head, buf)

    async def _zeroed(self, new: Allocation, start: int, head: int, tail: int) -> bool:
        """Zero the new clusters if all around the data is zeroes (handle_alloc_space).

        False if there is more, or if the file cannot be zeroed without writing it all.
        """
        length = new.count << self.image.cluster_bits
        if not await self._reader.known_zero(start, head):
            return False
        if not await self._reader.known_zero(start + length - tail, tail):
            return False
        self.image.event(BlkdebugEvent.CLUSTER_ALLOC_SPACE)
        try:
            await self.image.file.zero(new.host, length, may_unmap=False, no_fallback=True)
        except OSError as exc:
            if exc.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP):
                raise
            return False
        return True

    async def _old_data(self, offset: int, buf: memoryview) -> None:
        if buf:
            self.image.event(BlkdebugEvent.COW_READ)
            await self._reader.pread(offset, buf)

    def _link(self, new: Allocation) -> None:
        """Enter the new clusters into their table: from now on they are the guest's."""
        size = self.image.cluster_size
        values = new.table.values
        for number in range(new.count):
            old = values[new.index + number]
            values[new.index + number] = COPIED | (new.host + number * size)
            if new.fresh:
                self.free_entry(old)
        self.mapping.tables.mark(new.table)

    def free_entry(self, entry: int, discard: Discard = Discard.OTHER) -> None:
        """An L2 entry has just been overwritten: its clusters lose a reference."""
        bits = self.image.cluster_bits
        if entry & COMPRESSED:
            start, length = compressed_range(entry, bits)
            first, last = start >> bits, (start + length - 1) >> bits
            self.write_back.free(first, last - first + 1, discard)
        elif entry & OFFSET_MASK and not entry & OFFSET_MASK & self.image.cluster_mask:
            self.write_back.free((entry & OFFSET_MASK) >> bits, 1, discard)


def _alike(values: array[int], index: int, wanted: int, size: int) -> tuple[int, int]:
    """How many entries from `index` on need the same: new clusters, or (offset) to be reused.

    0 clusters if the first entry can be written in place by now.
    """
    entry = values[index]
    if kind_of(entry) is Kind.NORMAL and writable_in_place(entry):
        return 0, 0
    reuse = writable_in_place(entry)
    end = min(index + wanted, len(values))
    at = index + 1
    while at < end:
        if reuse and values[at] != entry + (at - index) * size:
            break
        if not reuse and writable_in_place(values[at]):
            break
        at += 1
    return at - index, entry & OFFSET_MASK if reuse else 0
