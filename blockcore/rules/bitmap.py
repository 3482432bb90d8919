# SPDX-License-Identifier: MIT
"""Dirty bitmaps: which parts of a node have been written to (`block/dirty-bitmap.c`).

One bit stands for `granularity` bytes.  Offsets and lengths are bytes
throughout.  `count` is the number of dirty bits times the granularity: if the
last granule is partial and dirty, `count` can exceed the node's size, as in QEMU.

While a job uses a bitmap, the bitmap is `busy`, and a *successor* without a
name records in its place.  At the end of the job the successor either takes
over the name (`abdicate`) or is merged into the bitmap (`reclaim`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bitarray import bitarray
from bitarray.util import zeros

from blockcore.qapi.names import QmpError

MIN_GRANULARITY = 512
"""Bytes."""

MAX_NAME_LENGTH = 1023
"""Bytes of UTF-8 (BDRV_BITMAP_MAX_NAME_SIZE)."""


class DirtyBitmap:
    """The bits of one bitmap, and whether the bitmap records.

    All methods work in memory.  1 TiB at a granularity of 64 KiB has 2 MiB of
    bits, in which a search or a merge takes less than a millisecond.

    All methods need the big lock, except `set_unlocked`.  `set_unlocked` is
    safe because each access to the bits is one call into C, which the
    interpreter does not interrupt, and because `_bits` is never replaced by
    another object.
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
        """Bytes that one bit stands for, a power of two."""
        return 1 << self._shift

    @property
    def count(self) -> int:
        """Dirty bytes, in whole granules (bdrv_get_dirty_count)."""
        if not self._counted:
            # True before the bits are counted: a `set_unlocked` during the count makes it False
            # again, and the next reader counts anew.
            self._counted = True
            self._dirty = self._bits.count()
        return self._dirty << self._shift

    @property
    def recording(self) -> bool:
        """Whether writes are recorded, here or in the successor (bdrv_dirty_bitmap_recording)."""
        return self.enabled or (self.successor is not None and self.successor.enabled)

    def set(self, offset: int, length: int) -> None:
        """Mark every granule that the range touches; bytes beyond the end are ignored."""
        first = offset >> self._shift
        last = min((offset + length + self.granularity - 1) >> self._shift, len(self._bits))
        if length and first < last:
            self._dirty += last - first - self._bits.count(1, first, last)
            self._bits[first:last] = 1

    def set_unlocked(self, offset: int, length: int) -> None:
        """Mark every granule that the range touches, on any thread, without the big lock."""
        end = (offset + length + self.granularity - 1) >> self._shift
        # The holder of the big lock may read `count` between any two of these steps.  Before the
        # bits change, `_counted` becomes False, so that a reader right after the change counts
        # anew.  After it, `_counted` becomes False once more, because a reader between the first
        # two steps has counted the old bits and has set it to True.
        self._counted = False
        self._bits[offset >> self._shift : end] = 1
        self._counted = False

    def reset(self, offset: int, length: int) -> None:
        """Clear a range of whole granules; the last one may be cut short by the node's end."""
        end = offset + length
        mask = self.granularity - 1
        assert not offset & mask and (not end & mask or end == self.size), (offset, length)
        first, last = offset >> self._shift, (end + mask) >> self._shift
        self._dirty -= self._bits.count(1, first, last)
        self._bits[first:last] = 0

    def clear(self) -> None:
        """Make everything clean."""
        self._bits.setall(0)
        self._dirty = 0

    def get(self, offset: int) -> bool:
        """Return whether the granule of the byte at `offset` is dirty."""
        return bool(self._bits[offset >> self._shift])

    def next_dirty(self, offset: int, end: int | None = None) -> int | None:
        """Return the offset of the first dirty byte in [offset, end), or None."""
        return self._find(1, offset, end)

    def next_clean(self, offset: int, end: int | None = None) -> int | None:
        """Return the offset of the first clean byte in [offset, end), or None."""
        return self._find(0, offset, end)

    def next_dirty_area(
        self, offset: int, end: int | None = None, max_length: int | None = None
    ) -> tuple[int, int] | None:
        """Return offset and length of the first run of dirty bytes in [offset, end), or None.

        The length is at most `max_length` (bdrv_dirty_bitmap_next_dirty_area).
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
        """Yield offset and length of each run of dirty bytes, in order."""
        offset = 0
        while (area := self.next_dirty_area(offset)) is not None:
            yield area
            offset = area[0] + area[1]

    def merge(self, other: DirtyBitmap) -> None:
        """Mark what is dirty in `other`; raise QmpError if the sizes differ."""
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
        """Follow the node's new size: added bytes are clean (bdrv_dirty_bitmap_truncate)."""
        bits = self._bits_for(size)
        if bits > len(self._bits):
            self._bits.extend(zeros(bits - len(self._bits), endian="little"))
        else:
            self._dirty -= self._bits.count(1, bits)
            del self._bits[bits:]
        self.size = size

    def bits(self) -> bitarray:
        """Return a copy of the bits, for `restore`."""
        return self._bits.copy()

    def restore(self, bits: bitarray) -> None:
        """Set all bits to those that `bits()` has returned; the size must be unchanged."""
        assert len(bits) == len(self._bits)
        self._bits[:] = bits
        self._counted = False

    def check_usable(self) -> None:
        """Raise QmpError if an operation uses the bitmap (bdrv_dirty_bitmap_check)."""
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

    `changed` is called when a bitmap may have begun or ceased to record: a
    shortcut that was chosen before would not mark it.
    """

    __slots__ = ("_all", "_changed")

    def __init__(self, changed: Callable[[], None]) -> None:
        self._all: list[DirtyBitmap] = []
        self._changed = changed

    def __iter__(self) -> Iterator[DirtyBitmap]:
        return iter(self._all)

    @property
    def recording(self) -> list[DirtyBitmap]:
        """The bitmaps that writes have to be marked in."""
        return [bitmap for bitmap in self._all if bitmap.enabled]

    def mark(self, offset: int, length: int) -> None:
        """Mark a write that has ended, also one that failed (bdrv_set_dirty)."""
        for bitmap in self._all:
            if bitmap.enabled:
                bitmap.set(offset, length)

    def resize(self, size: int) -> None:
        """Let all bitmaps follow the node's new size in bytes."""
        for bitmap in self._all:
            bitmap.resize(size)

    def find(self, name: str) -> DirtyBitmap:
        """Return the bitmap of that name, or raise QmpError (bdrv_find_dirty_bitmap)."""
        for bitmap in self._all:
            if bitmap.name == name:
                return bitmap
        raise QmpError(f"Dirty bitmap '{name}' not found")

    def add(self, bitmap: DirtyBitmap) -> None:
        """Put a bitmap on the node; raise QmpError if its name is taken or too long."""
        if bitmap.name is not None:
            if any(other.name == bitmap.name for other in self._all):
                raise QmpError(f"Bitmap already exists: {bitmap.name}")
            if len(bitmap.name.encode()) > MAX_NAME_LENGTH:
                raise QmpError(f"Bitmap name too long: {bitmap.name}")
        self._all.insert(0, bitmap)
        self._changed()

    def remove(self, bitmap: DirtyBitmap) -> None:
        """Take a bitmap off the node."""
        self._all.remove(bitmap)
        self._changed()

    def enable(self, bitmap: DirtyBitmap, enabled: bool = True) -> None:
        """Let a bitmap record from now on, or let it stop recording."""
        bitmap.enabled = enabled
        self._changed()

    def create_successor(self, bitmap: DirtyBitmap) -> None:
        """Make a bitmap busy, and put a clean successor in its place.

        The successor records if the bitmap did.  Raises QmpError if the bitmap
        is busy.  The caller has drained the node, so that no write in flight
        is marked in the bitmap afterwards
        (bdrv_dirty_bitmap_create_successor).
        """
        bitmap.check_usable()
        assert bitmap.successor is None
        successor = DirtyBitmap(bitmap.size, bitmap.granularity)
        successor.enabled = bitmap.enabled
        self.add(successor)
        bitmap.enabled, bitmap.busy, bitmap.successor = False, True, successor

    def abdicate(self, bitmap: DirtyBitmap) -> DirtyBitmap:
        """Replace a bitmap by its successor, and return the successor.

        For a job that has copied everything that the bitmap had
        (bdrv_dirty_bitmap_abdicate).
        """
        successor = bitmap.successor
        assert successor is not None
        successor.name = bitmap.name
        self.remove(bitmap)
        return successor

    def reclaim(self, bitmap: DirtyBitmap) -> None:
        """Merge the successor into the bitmap, and drop the successor.

        For a job that failed, so that the bitmap's content is still needed
        (bdrv_reclaim_dirty_bitmap).
        """
        successor = bitmap.successor
        assert successor is not None
        bitmap.merge(successor)
        bitmap.enabled, bitmap.busy, bitmap.successor = successor.enabled, False, None
        self.remove(successor)
