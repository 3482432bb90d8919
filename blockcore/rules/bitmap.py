# SPDX-License-Identifier: MIT
"""Dirty bitmaps: which parts of a node have been written to (`block/dirty-bitmap.c`).

One bit stands for `granularity` bytes.  Offsets and lengths are bytes
throughout, and so is `count`: the number of dirty bits times the granularity,
which on the last, partial granule says more than the node has (as QEMU's does).

While a job uses a bitmap it is `busy`, and a *successor* without a name records
in its place.  In the end the successor either takes the name over (`abdicate`)
or is merged back (`reclaim`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bitarray import bitarray
from bitarray.util import zeros

from blockcore.qapi.names import QmpError

MIN_GRANULARITY = 512
MAX_NAME_LENGTH = 1023


class DirtyBitmap:
    """The bits of one bitmap, and whether it records.  All reads and changes are in memory.

    For 1 TiB at 64 KiB there are 2 MiB of bits: a search or a merge takes less
    than a millisecond.

    Everything is for the holder of the big lock, except `set_unlocked`.  What
    makes that one safe is that each access to the bits is a single call into C,
    which the interpreter does not interrupt, and that the bits stay the same
    object for ever.
    """

    __slots__ = (
        *("_bits", "_counted", "_dirty", "_shift"),
        *("busy", "enabled", "name", "size", "successor"),
    )

    def __init__(self, size: int, granularity: int, name: str | None = None) -> None:
        assert granularity >= MIN_GRANULARITY and not granularity & (granularity - 1)
        self.size = size
        self.name = name
        self.enabled = True
        self.busy = False
        self.successor: DirtyBitmap | None = None
        self._shift = granularity.bit_length() - 1
        self._bits = zeros(self._bits_for(size), endian="little")
        self._dirty = 0
        self._counted = True

    @property
    def granularity(self) -> int:
        return 1 << self._shift

    @property
    def count(self) -> int:
        """Dirty bytes, in whole granules."""
        if not self._counted:
            self._counted = True
            self._dirty = self._bits.count()
        return self._dirty << self._shift

    @property
    def recording(self) -> bool:
        """Whether writes leave a trace, here or in the successor."""
        return self.enabled or (self.successor is not None and self.successor.enabled)

    def set(self, offset: int, length: int) -> None:
        """Mark every granule that the range touches; what is beyond the end is ignored."""
        first = offset >> self._shift
        last = min((offset + length + self.granularity - 1) >> self._shift, len(self._bits))
        if length and first < last:
            self._dirty += last - first - self._bits.count(1, first, last)
            self._bits[first:last] = 1

    def set_unlocked(self, offset: int, length: int) -> None:
        """`set` from any thread.

        The count is wrong from between these steps until they are done, which
        `_counted` says before, for whoever counts meanwhile, and after.
        """
        end = (offset + length + self.granularity - 1) >> self._shift
        self._counted = False
        self._bits[offset >> self._shift : end] = 1
        self._counted = False

    def reset(self, offset: int, length: int) -> None:
        """Clear a range of whole granules; it may end at the end of the node."""
        end = offset + length
        mask = self.granularity - 1
        assert not offset & mask and (not end & mask or end == self.size), (offset, length)
        first, last = offset >> self._shift, (end + mask) >> self._shift
        self._dirty -= self._bits.count(1, first, last)
        self._bits[first:last] = 0

    def clear(self) -> None:
        self._bits.setall(0)
        self._dirty = 0

    def get(self, offset: int) -> bool:
        """Whether the granule of this byte is dirty."""
        return bool(self._bits[offset >> self._shift])

    def next_dirty(self, offset: int, end: int | None = None) -> int | None:
        """The first dirty byte from `offset` on and before `end`, or None."""
        return self._find(1, offset, end)

    def next_clean(self, offset: int, end: int | None = None) -> int | None:
        """The first clean byte from `offset` on and before `end`, or None."""
        return self._find(0, offset, end)

    def next_dirty_area(
        self, offset: int, end: int | None = None, max_length: int | None = None
    ) -> tuple[int, int] | None:
        """Offset and length of the first dirty bytes from `offset` on and before `end`.

        At most `max_length` of them; None if there are none.
        """
        end = self.size if end is None else min(end, self.size)
        start = self._find(1, offset, end)
        if start is None:
            return None
        if max_length is not None:
            end = min(end, start + max_length)
        stop = self._find(0, start, end)
        return start, (end if stop is None else stop) - start

    def areas(self) -> Iterator[tuple[int, int]]:
        """All dirty areas, as `next_dirty_area` gives them."""
        offset = 0
        while (area := self.next_dirty_area(offset)) is not None:
            yield area
            offset = area[0] + area[1]

    def merge(self, other: DirtyBitmap) -> None:
        """Mark what is dirty in `other`; QmpError if that is of another size."""
        if self.size != other.size:
            raise QmpError(
                f"Bitmaps are of different sizes (destination size is {self.size},"
                f" source size is {other.size}) and can't be merged"
            )
        if self._shift == other._shift:
            self._bits |= other._bits
            self._counted = False
        else:
            for offset, length in other.areas():
                self.set(offset, length)

    def resize(self, size: int) -> None:
        """Follow the node's length: new bytes are clean, those that are gone are forgotten."""
        bits = self._bits_for(size)
        if bits > len(self._bits):
            self._bits.extend(zeros(bits - len(self._bits), endian="little"))
        else:
            self._dirty -= self._bits.count(1, bits)
            del self._bits[bits:]
        self.size = size

    def bits(self) -> bitarray:
        """A copy of the bits, little-endian, for `restore`."""
        return self._bits.copy()

    def restore(self, bits: bitarray) -> None:
        """Become again what `bits` was taken from; the size is the same."""
        assert len(bits) == len(self._bits)
        self._bits[:] = bits
        self._counted = False

    def check_usable(self) -> None:
        """QmpError if an operation uses the bitmap (bdrv_dirty_bitmap_check)."""
        if self.busy:
            raise QmpError(
                f"Bitmap '{self.name}' is currently in use by another operation"
                " and cannot be used"
            )

    def _bits_for(self, size: int) -> int:
        return (size + self.granularity - 1) >> self._shift

    def _find(self, value: int, offset: int, end: int | None) -> int | None:
        end = self.size if end is None else min(end, self.size)
        if offset >= end:
            return None
        stop = (end + self.granularity - 1) >> self._shift
        bit = self._bits.find(value, offset >> self._shift, stop)
        return None if bit < 0 else max(offset, bit << self._shift)


class NodeBitmaps:
    """The bitmaps of one node, newest first.

    `changed` is called when a bitmap may have begun or ceased to record.
    """

    __slots__ = ("_all", "_changed")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._all: list[DirtyBitmap] = []
        self._changed = changed

    def __iter__(self) -> Iterator[DirtyBitmap]:
        return iter(self._all)

    @property
    def recording(self) -> list[DirtyBitmap]:
        """The bitmaps that want to be told of writes (`mark`)."""
        return [bitmap for bitmap in self._all if bitmap.enabled]

    def mark(self, offset: int, length: int) -> None:
        """A write, of whatever outcome, has ended (bdrv_set_dirty)."""
        for bitmap in self._all:
            if bitmap.enabled:
                bitmap.set(offset, length)

    def resize(self, size: int) -> None:
        for bitmap in self._all:
            bitmap.resize(size)

    def find(self, name: str) -> DirtyBitmap:
        """The bitmap of that name, or QmpError."""
        for bitmap in self._all:
            if bitmap.name == name:
                return bitmap
        raise QmpError(f"Dirty bitmap '{name}' not found")

    def add(self, bitmap: DirtyBitmap) -> None:
        """Put a bitmap on the node; QmpError if its name is taken or too long."""
        if bitmap.name is not None:
            if any(other.name == bitmap.name for other in self._all):
                raise QmpError(f"Bitmap already exists: {bitmap.name}")
            if len(bitmap.name.encode()) > MAX_NAME_LENGTH:
                raise QmpError(f"Bitmap name too long: {bitmap.name}")
        self._all.insert(0, bitmap)
        self._changed()

    def remove(self, bitmap: DirtyBitmap) -> None:
        self._all.remove(bitmap)
        self._changed()

    def enable(self, bitmap: DirtyBitmap, enabled: bool = True) -> None:
        """Let a bitmap record from now on, or not."""
        bitmap.enabled = enabled
        self._changed()

    def create_successor(self, bitmap: DirtyBitmap) -> None:
        """Make a bitmap busy; a clean one records in its place, if it did; QmpError if busy.

        The node is drained, so that no write is marked in a bitmap that has ceased to record.
        """
        bitmap.check_usable()
        assert bitmap.successor is None
        successor = DirtyBitmap(bitmap.size, bitmap.granularity)
        successor.enabled = bitmap.enabled
        self.add(successor)
        bitmap.enabled, bitmap.busy, bitmap.successor = False, True, successor
        self._changed()

    def abdicate(self, bitmap: DirtyBitmap) -> DirtyBitmap:
        """Drop a bitmap whose content has been used; its successor, now named, is the result."""
        successor = bitmap.successor
        assert successor is not None
        successor.name = bitmap.name
        self.remove(bitmap)
        return successor

    def reclaim(self, bitmap: DirtyBitmap) -> None:
        """Take the successor's bits back in: the content is still needed."""
        successor = bitmap.successor
        assert successor is not None
        bitmap.merge(successor)
        bitmap.enabled, bitmap.busy, bitmap.successor = successor.enabled, False, None
        self.remove(successor)
