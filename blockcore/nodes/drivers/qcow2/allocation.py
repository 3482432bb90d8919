# SPDX-License-Identifier: MIT
"""Allocation of clusters for guest data: registered, then written, then linked.

An allocation begins and ends under the big lock; the caller writes the data in
between, perhaps without the lock.  Meanwhile the clusters have a reference in
memory, but no table refers to them, so no other request sees them.
"""

from __future__ import annotations

from array import array

from blockcore.bql.effects import Until
from blockcore.nodes.drivers.qcow2.entries import (
    COMPRESSED,
    COPIED,
    OFFSET_MASK,
    Kind,
    compressed_range,
    kind_of,
    writable_in_place,
)
from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.nodes.drivers.qcow2.mapping import Mapping
from blockcore.nodes.drivers.qcow2.tables import Table
from blockcore.nodes.drivers.qcow2.write_back import Discard, WriteBack
from blockcore.qapi.names import BlkdebugEvent
from blockcore.qapi.record import dataclass


@dataclass(slots=True, eq=False)
class Allocation:
    """A write under way: guest clusters `first` to `last` get the clusters at `host`.

    `host` is an offset in the file, in bytes.  `table` has the entries of the
    guest clusters from `index` on.  `fresh` is false if the guest clusters had
    these clusters already (ZERO_ALLOC).
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
        self._clusters: set[int] = set()

    def meets(self, first: int, last: int) -> bool:
        """Tell whether an allocation concerns any of the guest clusters `first` to `last`."""
        if first == last:
            return first in self._clusters
        return any(one.first <= last and first <= one.last for one in self._all)

    async def settled(self, first: int, last: int) -> None:
        """Wait until no allocation concerns guest clusters `first` to `last`.

        (handle_dependencies.)
        """
        while self.meets(first, last):
            await Until(lambda: not self.meets(first, last))

    def begin(self, allocation: Allocation) -> None:
        """Register an allocation; no other one may concern its guest clusters."""
        self._all.append(allocation)
        self._clusters.update(range(allocation.first, allocation.last + 1))

    def end(self, allocation: Allocation) -> None:
        """Remove an allocation; requests that wait for its clusters go on."""
        self._all.remove(allocation)
        self._clusters.difference_update(range(allocation.first, allocation.last + 1))


class Allocator:
    """The beginning and the end of an image's allocations."""

    def __init__(self, image: Image, mapping: Mapping, write_back: WriteBack) -> None:
        self.image = image
        self.mapping = mapping
        self.write_back = write_back
        self.in_flight = InFlight()

    def begin_at_once(self, offset: int, length: int) -> Allocation | None:
        """Register clusters for the beginning of a write, without an await.

        This is the usual case of `begin`: all guest clusters are holes, and their
        L2 table and a refcount block are in memory.  Returns None in any other case,
        also if the image's lock is taken: its holder relies on tables that stay as
        they are.  The caller has the big lock.
        """
        image = self.image
        if image.lock.taken or image.unusable or image.conflict is not None:
            return None
        if self.write_back.is_due:
            return None
        table = self.mapping.own_table(offset >> image.table_shift)
        if table is None:
            return None
        first = offset >> image.cluster_bits
        last = (offset + length - 1) >> image.cluster_bits
        index = first & (image.l2_entries - 1)
        values = table.values
        count = min(last - first + 1, image.l2_entries - index)
        if values[index] or (count > 1 and any(values[index : index + count])):
            return None
        last = first + count - 1
        if self.in_flight.meets(first, last):
            return None
        cluster = self.write_back.refcounts.take_at_hint(count)
        if cluster is None:
            return None
        image.event(BlkdebugEvent.CLUSTER_ALLOC)
        return self._register(first, count, cluster << image.cluster_bits, table, fresh=True)

    async def begin(self, offset: int, length: int) -> Allocation | None:
        """Register clusters for the beginning of a write.

        Returns None if another write has allocated or is allocating them meanwhile:
        the caller looks again.  The caller holds the image's lock.  Raises OSError.
        """
        image = self.image
        first = offset >> image.cluster_bits
        table = await self.mapping.table_for_write(offset >> image.table_shift)
        table.pins += 1
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
            return self._register(first, count, host, table, fresh=fresh)
        finally:
            table.pins -= 1

    def _register(
        self, first: int, count: int, host: int, table: Table, *, fresh: bool
    ) -> Allocation:
        index = first & (self.image.l2_entries - 1)
        allocation = Allocation(first, first + count - 1, host, table, index, fresh)
        table.pins += 1
        self.in_flight.begin(allocation)
        return allocation

    def end(self, new: Allocation, *, written: bool) -> None:
        """Link the clusters to the guest's if they were `written`, otherwise give them back."""
        if written:
            self._link(new)
        elif new.fresh:
            self.write_back.give_back(new.host >> self.image.cluster_bits, new.count)
        new.table.pins -= 1
        self.in_flight.end(new)

    def _link(self, new: Allocation) -> None:
        """Enter the new clusters into their table, and free what was there before."""
        size = self.image.cluster_size
        values = new.table.values
        for number in range(new.count):
            old = values[new.index + number]
            values[new.index + number] = COPIED | (new.host + number * size)
            if new.fresh and old:
                self.free_entry(old)
        self.mapping.tables.mark(new.table)

    def free_entry(self, entry: int, discard: Discard = Discard.OTHER) -> None:
        """Free the clusters of an L2 entry that was just overwritten in memory."""
        bits = self.image.cluster_bits
        if entry & COMPRESSED:
            start, length = compressed_range(entry, bits)
            first, last = start >> bits, (start + length - 1) >> bits
            self.write_back.free(first, last - first + 1, discard)
        elif entry & OFFSET_MASK and not entry & OFFSET_MASK & self.image.cluster_mask:
            self.write_back.free((entry & OFFSET_MASK) >> bits, 1, discard)


def _alike(values: array[int], index: int, wanted: int, size: int) -> tuple[int, int]:
    """Return how many entries from `index` on can be written together, and where to.

    The offset is 0 if they need new clusters; otherwise they have contiguous ones
    that can be reused.  The number is 0 if the first entry is plain data by now,
    which is written in place.
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
