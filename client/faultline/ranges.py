# SPDX-License-Identifier: MIT
"""Sets of bytes, as ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right


class Ranges:
    """A set of numbers, kept as ranges that neither overlap nor touch.

    >>> some = Ranges()
    >>> some.add(0, 8); some.remove(2, 4); some.touches(2, 4), some.touches(3, 5)
    (False, True)
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def touches(self, start: int, end: int) -> bool:
        """Return whether any number from `start` to before `end` is in the set."""
        at = bisect_right(self._ends, start)
        return start < end and at < len(self._starts) and self._starts[at] < end

    def add(self, start: int, end: int) -> None:
        """Add all numbers from `start` to before `end`."""
        if start >= end:
            return
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def remove(self, start: int, end: int) -> None:
        """Remove all numbers from `start` to before `end`."""
        if start >= end:
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        before = (self._starts[first], start) if self._starts[first] < start else None
        after = (end, self._ends[last - 1]) if self._ends[last - 1] > end else None
        kept = [part for part in (before, after) if part is not None]
        self._starts[first:last] = [part[0] for part in kept]
        self._ends[first:last] = [part[1] for part in kept]
