# SPDX-License-Identifier: MIT
"""Caches of tables of big-endian numbers: L2 tables and refcount blocks.

A table is one cluster, in memory an array of a cluster's size.  A cache holds at
most `limit` tables.  It exceeds the limit only by tables that cannot be dropped
at the moment, changed or pinned ones, and only for a moment: code that changes
tables writes them before they are too many (`WriteBack.limit`,
`RefcountTable.block`).
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
    """Read a table of `length` bytes, a multiple of 8, at `offset` in the file."""
    values = array(typecode, bytes(8)) * (length // 8)
    if values:
        with memoryview(values) as numbers, numbers.cast("B") as data:
            await image.read(offset, data)
    if sys.byteorder == "little":
        values.byteswap()
    return values


def from_disk(typecode: str, data: bytes | bytearray) -> array[int]:
    """Return an array of the big-endian numbers in `data`."""
    values = array(typecode, bytes(data))
    if sys.byteorder == "little":
        values.byteswap()
    return values


def to_disk(values: array[int]) -> bytes:
    """Return the bytes of an array as big-endian numbers, the inverse of `from_disk`."""
    swapped = values[:]
    if sys.byteorder == "little":
        swapped.byteswap()
    return swapped.tobytes()


class Table:
    """A table in memory; while `pins` is not 0, it is not dropped from the cache."""

    __slots__ = ("offset", "pins", "values")

    def __init__(self, offset: int, values: array[int]) -> None:
        self.offset = offset
        self.values = values
        self.pins = 0


class TableCache:
    """The tables of one kind by their offsets in the file, least recently used first.

    `on_drop` is called with the offset of each table that is dropped to make room.
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
        """Return the table at `offset` if it is in memory, and count that as a use."""
        table = self._tables.get(offset)
        if table is not None:
            self._tables.move_to_end(offset)
        return table

    async def get(self, offset: int) -> Table:
        """Return the table at `offset`, read from the file if needed.

        The caller holds the image's lock, so that no table is read twice.
        """
        table = self.peek(offset)
        if table is None:
            self._image.event(self._on_load)
            values = await read_table(
                self._image, self._typecode, offset, self._image.cluster_size
            )
            table = self._insert(offset, values)
        return table

    async def create(self, offset: int, values: array[int]) -> Table:
        """Write a new table and return it.

        Writing at once tells whether the disk has room for it.
        """
        await self._image.file.pwrite(offset, memoryview(to_disk(values)))
        return self._insert(offset, values)

    @property
    def changed(self) -> int:
        """The number of tables that have to be written."""
        return len(self._changed)

    def mark(self, table: Table) -> None:
        """Note that the table was changed in memory."""
        self._changed[table.offset] = table

    def snapshot(self) -> list[tuple[Table, bytes]]:
        """Return the changed tables and their present bytes, in the order of the file.

        They count as unchanged from now on; `store` must be called with the result,
        or each table marked again.
        """
        changed, self._changed = self._changed, {}
        return [(changed[offset], to_disk(changed[offset].values)) for offset in sorted(changed)]

    async def store(self, tables: list[tuple[Table, bytes]]) -> None:
        """Write a snapshot; on OSError, tables that were not written count as changed again."""
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
        """Drop the table at `offset`, changed or not: the cluster is no table any more."""
        self._tables.pop(offset, None)
        self._changed.pop(offset, None)

    def trim(self, spared: Table | None = None) -> None:
        """Drop the least recently used tables beyond the limit, except `spared`.

        Changed and pinned tables stay.
        """
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
