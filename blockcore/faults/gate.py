# SPDX-License-Identifier: MIT
"""The byte ranges in which something may concern a request, for a quick look."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable


class Gate:
    """A set of byte ranges [start, end) in which a fault rule or a volume may hit a request.

    One bisection tells whether a request touches any of them, however many
    there are.  `starts` and `ends` are sorted, and the ranges are disjoint.  A
    gate never changes once it is made, so that any thread may ask it without a
    lock.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        for start, end in sorted(ranges):
            if self.ends and start <= self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
            else:
                self.starts.append(start)
                self.ends.append(end)

    def __bool__(self) -> bool:
        return bool(self.starts)

    def touches(self, offset: int, nbytes: int) -> bool:
        """Return whether [offset, offset + nbytes) overlaps one of the ranges."""
        index = bisect_right(self.starts, offset + nbytes - 1)
        return index > 0 and self.ends[index - 1] > offset

    def union(self, other: Gate, shift: int = 0) -> Gate:
        """Return a gate with the ranges of both; those of `other` are moved up by `shift` bytes."""
        if not other:
            return self
        if not self and not shift:
            return other
        moved = ((s + shift, e + shift) for s, e in zip(other.starts, other.ends, strict=True))
        return Gate([*zip(self.starts, self.ends, strict=True), *moved])


EVERYWHERE = Gate([(0, 1 << 63)])
"""A gate that every request touches."""
