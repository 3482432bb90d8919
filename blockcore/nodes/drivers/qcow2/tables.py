# SPDX-License-Identifier: MIT
"""Tables of big-endian numbers, cached: L2 tables and refcount blocks.

A table is one cluster.  A cache holds at most `limit` of them, each as an array
of exactly a cluster's size.  Only those that cannot be dropped at the moment,
changed or pinned ones, can be more: for a moment, since whoever changes tables
has them written before there are too many (`WriteBack.limit`, `Refcounts.block`).
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator

from blockcore.nodes.drivers.qcow2.image import Image
from blockcore.qapi.names import BlkdebugEvent

L1_TYPE = "Q"
L2_TYPE = "Q"
REFBLOCK_TYPE = "H"


async def read_table(image: Image, typecode: str, offset: int, length: int) -> array[int]:
    """A table of `length` bytes, a multiple of 8."""
    values = array(typecode, bytes(8)) * (length // 8)
    if values:
        with memoryview(values) as numbers, numbers.cast("B") as data:
            await image.read(offset, data)
    if sys.byteorder == "little":
        values.byteswap()
    return values


def from_disk(typecode: str, data: bytes | bytearray) -> array[int]:
    """An array of the numbers in `data`, which are big-endian."""
    values = array(typecode, bytes(data))
    if sys.byteorder == "little":
        values.byteswap()
    return values


def to_disk(values: array[int]) -> bytes:
    """The reverse of `from_disk`."""
    swapped = values[:]
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


class Table:
    """A table in memory; `pins` counts those that rely on its staying there."""

    __slots__ = ("offset", "pins", "values")

    def __init__(self, offset: int, values: array[int]) -> None:
        self.offset = offset
        self.values = values
        self.pins = 0


class TableCache:
    """The tables of one kind, by their offsets in the file, least recently used first.

    `on_drop` is told of each that leaves the memory to make room.
    """

    def __init__(
        self,
        image: Image,
        typecode: str,
        limit: int,
        on_load: BlkdebugEvent,
        on_store: BlkdebugEvent,
        on_drop: Callable[[int], object] = lambda offset: None,
    ) -> None:
        self.limit = limit
        self._on_drop = on_drop
        self._image = image
        self._typecode = typecode
        self._on_load = on_load
        self._on_store = on_store
        self._tables: OrderedDict[int, Table] = OrderedDict()
        self._changed: dict[int, Table] = {}

    def __len__(self) -> int:
        return len(self._tables)

    def peek(self, offset: int) -> Table | None:
        """The table at `offset` if it is in memory."""
        table = self._tables.get(offset)
        if table is not None:
            self._tables.move_to_end(offset)
        return table

    async def get(self, offset: int) -> Table:
        """The table at `offset`, read if need be; the image's lock is held."""
        table = self.peek(offset)
        if table is None:
            self._image.event(self._on_load)
            values = await read_table(
                self._image, self._typecode, offset, self._image.cluster_size
            )
            table = self._insert(offset, values)
        return table

    async def create(self, offset: int, values: array[int]) -> Table:
        """Write a new table, which also makes sure that there is room for it on the disk."""
        await self._image.file.pwrite(offset, memoryview(to_disk(values)))
        return self._insert(offset, values)

    @property
    def changed(self) -> int:
        """How many tables have to be written."""
        return len(self._changed)

    def mark(self, table: Table) -> None:
        """The table has changed in memory."""
        self._changed[table.offset] = table

    def snapshot(self) -> list[tuple[Table, bytes]]:
        """The changed tables as they are now, in the order of the file, to be stored.

        They count as unchanged from now on; see `store`.
        """
        changed, self._changed = self._changed, {}
        return [(changed[offset], to_disk(changed[offset].values)) for offset in sorted(changed)]

    async def store(self, tables: list[tuple[Table, bytes]]) -> None:
        """Write a snapshot; after an OSError what is not written counts as changed again."""
        written = 0
        try:
            for table, data in tables:
                self._image.event(self._on_store)
                await self._image.file.pwrite(table.offset, memoryview(data))
                written += 1
        finally:
            for table, _ in tables[written:]:
                if self._tables.get(table.offset) is table:
                    self.mark(table)

    def forget(self, offset: int) -> None:
        """The cluster is not a table any more."""
        self._tables.pop(offset, None)
        self._changed.pop(offset, None)

    def trim(self, spared: Table | None = None) -> None:
        """Drop the least recently used tables beyond the limit, if they may go."""
        for victim in list(self._victims(len(self._tables) - self.limit, spared)):
            del self._tables[victim]
            self._on_drop(victim)

    def _insert(self, offset: int, values: array[int]) -> Table:
        table = self._tables[offset] = Table(offset, values)
        if len(self._tables) > self.limit:
            self.trim(table)
        return table

    def _victims(self, count: int, spared: Table | None) -> Iterator[int]:
        for offset, table in self._tables.items():
            if count <= 0:
                return
            if offset not in self._changed and not table.pins and table is not spared:
                count -= 1
                yield offset
