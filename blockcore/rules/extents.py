# SPDX-License-Identifier: MIT
"""Which of several writes each byte of a disk has: segments, sorted, that do not overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

Range = tuple[int, int]
"""A range of bytes or of sectors: its start, and its end, which is not part of it."""


class Segment(NamedTuple):
    """The bytes from `start` to `end`: `data`, or zeroes if that is None.

    They are from write `number`.  `unmap` says that zeroes may be deallocated.
    """

    start: int
    end: int
    data: memoryview | None
    number: int
    unmap: bool = False

    def clipped(self, start: int, end: int) -> Segment:
        """Return the part of the segment that is within a range, which meets it."""
        first, last = max(start, self.start), min(end, self.end)
        data = self.data
        if data is not None:
            data = data[first - self.start : last - self.start]
        return self._replace(start=first, end=last, data=data)


class Extents:
    """A map from bytes to segments; bytes without one are those of the disk below."""

    __slots__ = ("_segments", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._segments: list[Segment] = []

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def _span(self, start: int, end: int) -> Range:
        """Return the indices of the segments that meet a range."""
        low = bisect_right(self._starts, start) - 1
        if low < 0 or self._segments[low].end <= start:
            low += 1
        return low, max(low, bisect_left(self._starts, end))

    def within(self, start: int, end: int) -> list[Segment]:
        """Return what is known of a range, in order, clipped to the range."""
        low, high = self._span(start, end)
        return [segment.clipped(start, end) for segment in self._segments[low:high]]

    def gaps(self, start: int, end: int) -> list[Range]:
        """Return the parts of a range of which nothing is known, in order."""
        found = []
        for segment in self.within(start, end):
            if segment.start > start:
                found.append((start, segment.start))
            start = segment.end
        if start < end:
            found.append((start, end))
        return found

    def put(self, segment: Segment) -> None:
        """Let a segment replace whatever its range has."""
        self._splice(segment.start, segment.end, [segment])

    def fill(self, segment: Segment) -> None:
        """Let a segment have those bytes of its range that nothing else has."""
        for start, end in self.gaps(segment.start, segment.end):
            self.put(segment.clipped(start, end))

    def cut(self, start: int, end: int, number: int) -> None:
        """Forget the bytes of a range that are from writes up to `number`."""
        rest = [segment for segment in self.within(start, end) if segment.number > number]
        self._splice(start, end, rest)

    def _splice(self, start: int, end: int, middle: Iterable[Segment]) -> None:
        low, high = self._span(start, end)
        met = self._segments[low:high]
        new = list(middle)
        if met and met[0].start < start:
            new.insert(0, met[0].clipped(met[0].start, start))
        if met and met[-1].end > end:
            new.append(met[-1].clipped(end, met[-1].end))
        self._segments[low:high] = new
        self._starts[low:high] = [segment.start for segment in new]


def without(ranges: Iterable[Range], start: int, end: int) -> list[Range]:
    """Return ranges without the part of each that is from `start` to `end`."""
    rest = []
    for first, last in ranges:
        pieces = ((first, min(last, start)), (max(first, end), last))
        rest += [(low, high) for low, high in pieces if low < high]
    return rest


def meeting(ranges: Iterable[Range], start: int, end: int) -> list[Range]:
    """Return the parts of ranges that are from `start` to `end`."""
    pieces = ((max(first, start), min(last, end)) for first, last in ranges)
    return [(low, high) for low, high in pieces if low < high]
