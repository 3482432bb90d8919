# SPDX-License-Identifier: MIT
"""The log of a volatile write cache: writes that may be lost when the power goes.

What a drive promises (NVMe's volatile write cache, SCSI's WCE, NBD's flush and FUA):

- A write that was answered, and neither flushed since nor sent with FUA, is on the
  medium or not, in any order with others, and for each of its sectors on its own.
- Of several such writes to a sector, the medium has any one, or none.
- What was flushed, and what was written with FUA, is there for certain.  Older data
  does not come back over it.

So a state after a crash is the medium with some of the log's sectors written to it,
in the order of the log (`crash_states`).  Writes of less than a sector apply to the
bytes that they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blockcore.faults.options import SECTOR_SIZE
from blockcore.rules.extents import Extents, Range, Segment, meeting, without

WRITE_COST = 512
"""Bytes that an entry of the log takes besides its data, which also bounds writes of nothing."""


class Write:
    """A write in the log: `data` at `offset`, or zeroes if that is None; `length` in bytes.

    `number` counts the writes of a cache from 1 on.  `live` are the bytes that are not
    on the medium for certain.  `unmap` is for zeroes that may be deallocated.
    """

    __slots__ = ("data", "length", "live", "number", "offset", "unmap")

    def __init__(
        self, number: int, offset: int, length: int, data: memoryview | None, unmap: bool
    ) -> None:
        self.number = number
        self.offset = offset
        self.length = length
        self.data = data
        self.unmap = unmap
        self.live: list[Range] = [(offset, offset + length)]

    @property
    def cost(self) -> int:
        """The bytes of memory that the entry stands for."""
        return WRITE_COST + (0 if self.data is None else self.length)

    @property
    def sectors(self) -> int:
        """The number of sectors that the write touches."""
        return -(-(self.offset + self.length) // SECTOR_SIZE) - self.offset // SECTOR_SIZE

    def pieces(self, runs: Iterable[Range] | None = None) -> Iterator[Segment]:
        """Yield the live bytes, or those in `runs` of sectors, counted from the write's first."""
        whole = Segment(
            self.offset, self.offset + self.length, self.data, self.number, self.unmap
        )
        first = self.offset // SECTOR_SIZE
        for low, high in ((0, self.sectors),) if runs is None else runs:
            start, end = (first + low) * SECTOR_SIZE, (first + high) * SECTOR_SIZE
            for piece in meeting(self.live, start, end):
                yield whole.clipped(*piece)


class WriteLog:
    """The writes that may be lost, in the order in which they were made.

    `newest` has what reads see of them.  `last` is the number of the last write that
    was ever logged, `cost` the bytes of memory that all entries stand for.
    """

    def __init__(self) -> None:
        self.newest = Extents()
        self.last = 0
        self.cost = 0
        self._writes: dict[int, Write] = {}

    def __len__(self) -> int:
        return len(self._writes)

    def __iter__(self) -> Iterator[Write]:
        return iter(self._writes.values())

    @property
    def numbers(self) -> list[int]:
        """The numbers of the writes, in order."""
        return list(self._writes)

    def get(self, number: int) -> Write | None:
        """Return a write by its number; None if it is not in the log."""
        return self._writes.get(number)

    def write(self, offset: int, data: bytes) -> Write:
        """Log a write of `data`."""
        return self._append(offset, len(data), memoryview(data), False)

    def zero(self, offset: int, length: int, *, unmap: bool) -> Write:
        """Log a write of zeroes, which with `unmap` may be deallocated, as by a discard."""
        return self._append(offset, length, None, unmap)

    def _append(self, offset: int, length: int, data: memoryview | None, unmap: bool) -> Write:
        self.last += 1
        write = Write(self.last, offset, length, data, unmap)
        self._writes[write.number] = write
        self.cost += write.cost
        for piece in write.pieces():
            self.newest.put(piece)
        return write

    def oldest(self) -> Write:
        """Return the first write of a log that has some."""
        return next(iter(self._writes.values()))

    def settled(self, number: int, start: int, end: int) -> None:
        """Note that writes up to `number` are on the medium, as far as they are in a range."""
        over = []
        for write in self._writes.values():
            if write.number > number:
                break
            if write.offset < end and start < write.offset + write.length:
                write.live = without(write.live, start, end)
            if not write.live:
                over.append(write)
        for write in over:
            self.cost -= write.cost
            del self._writes[write.number]
        self.newest.cut(start, end, number)

    def written(self, number: int) -> None:
        """Note that the live bytes of one write are on the medium, as whoever is first is told."""
        write = self._writes.pop(number)
        self.cost -= write.cost
        for start, end in write.live:
            self._forget(start, end, number)

    def _forget(self, start: int, end: int, number: int) -> None:
        for piece in self.newest.within(start, end):
            if piece.number == number:
                self.newest.cut(piece.start, piece.end, number)

    def clear(self) -> None:
        """Forget all writes; later ones are numbered on."""
        self.newest = Extents()
        self._writes.clear()
        self.cost = 0
